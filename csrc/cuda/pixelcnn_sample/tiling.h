// Cuts a batch into tiles of samples, one per thread block, and says what a thread block keeps in shared memory.
#pragma once

#include "program.h"

namespace vlae::cuda::pixelcnn_sample {

constexpr int kMaxRows = 32;  // samples x pixels of a wave that a warp multiplies at once
constexpr int kMinRows = 4;

// Places of a row beside those that it reads: where it writes, its residual, the row of its condition, its factor.
constexpr int kOut = 0, kResidual = 1, kCondition = 2, kFactor = 3, kPlaces = 4;

constexpr int kEntryBytes = 32, kReachedBytes = 16;

// Places of a section of several stages: those of the most rows take 20 KB, twice.
constexpr int64_t most_places(Dtype dtype) { return dtype == Dtype::float32 ? 160 : 80; }

struct Limits {
  int32_t processors;
  int32_t shared_bytes;  // the most that a thread block can have
};

struct Tiling {
  Divisor samples;   // per tile
  Divisor left;      // in the last tile
  int32_t rows;      // in a block of rows: kMaxRows, less where there are no more or shared memory is scarce
  int32_t row_bits;  // binary logarithm of `rows`
  int32_t blocks;    // thread blocks
  int32_t shared_bytes;
  int32_t entries, stages;
  int32_t places;      // in a table of where rows read and write: those of a section, or of all stages
  bool is_whole;       // of all stages
  int32_t conditions;  // values that a thread block keeps in shared memory: of all its samples, or none
  // Values in a tile's activations in global memory; 0: they are in shared memory.
  int64_t global_size;
};

// Bytes of shared memory without which no thread block can run a program, on images of any size: beside its activations, which
// may be in global memory.
int64_t least_shared_bytes(const Program& program);

Tiling tiling_of(const Program& program, int64_t batch, const Limits& limits);

}  // namespace vlae::cuda::pixelcnn_sample
