// How a batch is cut into tiles of samples, one to a block, and what a block keeps in shared memory.
#pragma once

#include "program.h"

namespace vlae::cuda {

constexpr int kMaxRows = 16;  // samples x pixels of a wave that a warp multiplies at once
constexpr int kMinRows = 4;
constexpr int kMaxColumns = 128;  // of a chunk: 32 lanes x 4
constexpr int kRowEntries = 3;    // of a row beside its taps: where it writes, its residual, its condition

struct Limits {
  int32_t processors, shared_bytes;  // of a block, at most
};

struct Tiling {
  int32_t samples;   // of a tile
  int32_t rows;      // of a block of rows: kMaxRows, less where shared memory is scarce
  int32_t row_bits;  // its logarithm
  int32_t blocks;
  int32_t shared_bytes;
  // Numbers of a tile's activations in global memory; 0: they are in shared memory.
  int64_t global_size;
};

Tiling tiling_of(const Program& program, int64_t batch, const Limits& limits);

}  // namespace vlae::cuda
