// A thread block, the rows of a matrix product that it computes at a time, and where they read and write.
#pragma once

#include "../conversions.h"
#include "program.h"
#include "tiling.h"

namespace vlae::cuda::pixelcnn_sample {

constexpr int kThreads = 32 * kWarps;
static_assert(kThreads % kMaxRows == 0, "a thread locates one row at all of its entries");

// A thread block's memory and its samples. T: the type of activations and weights.
template <typename T>
struct ThreadBlock {
  // Of a block of rows where they read, cf. read_at, then [kPlaces][rows]. Twice: the next rows are located while the last are
  // still being finished.
  int* offsets;
  int* next_offsets;
  float* sums;          // [warp][row][column of its chunk]
  const float* biases;  // of all stages; nullptr where they are too many to be held
  int rows;             // the most at a time, 1 << row_bits
  int row_bits;
  T* cache;  // zero_size zeros, then the rings of each sample
  int first_sample;
  Divisor samples;
};

// What a stage's rows read or write, in shared memory: its taps, then its places.
struct alignas(16) Entry {
  int32_t dy, dx;      // from the row's pixel
  int32_t at, stride;  // of the ring
  Divisor waves;
  int32_t first, live, all;  // of what a row reads: its number, how many are not zeros, how many
};
static_assert(sizeof(Entry) == kEntryBytes);

// Rows first .. first + count - 1 of a stage's wave; row r is pixel r / samples of sample r % samples.
struct RowBlock {
  int wave, first, count;
  WaveRows<int> pixels;
  const Entry* entries;
};

// Where number `read` of what a row reads is in the offsets: a tap, or in 16-bit dtypes a group of products, of which a lane
// takes several at once.
template <typename T>
__device__ inline int read_at(int read, int row, int rows) {
  constexpr unsigned kBatch = format_of(dtype_of<T>).batch;
  const unsigned at = static_cast<unsigned>(read);
  return static_cast<int>((at / kBatch * static_cast<unsigned>(rows) + static_cast<unsigned>(row)) * kBatch + at % kBatch);
}

template <typename T>
__device__ inline int* places_of(const Stage& stage, const ThreadBlock<T>& block) {
  return block.offsets + stage.reads * block.rows;
}

__device__ inline Entry entry_of(const Program& p, int buffer, int dy, int dx) {
  if (buffer < 0) return {};
  const Ring& ring = p.rings[buffer];
  return {dy, dx, ring.at, ring.stride, ring.waves, 0, 0, 0};
}

// One of a stage's taps; what it reads is a tap, or its groups with those that fill the last batch.
template <typename T>
__device__ inline Entry entry_of_tap(const Program& p, const Stage& stage, int tap) {
  const SourceTap& from = p.taps[stage.taps + tap];
  Entry entry = entry_of(p, from.buffer, from.dy, from.dx);
  entry.first = sizeof(T) == sizeof(float) ? tap : from.group;
  const int next = sizeof(T) == sizeof(float) ? tap + 1 : p.taps[stage.taps + tap + 1].group;
  entry.all = (tap + 1 == stage.n_taps ? stage.reads : next) - entry.first;
  entry.live = min(entry.all, p.rings[from.buffer].groups);
  return entry;
}

// The entries of all stages, those of a stage from `taps` + kPlaces times its number on.
template <typename T>
__device__ void list_entries(const Program& p, Entry* entries) {
  for (int s = 0; s < p.n_stages; ++s) {
    const Stage& stage = p.stages[s];
    Entry* own = entries + stage.taps + kPlaces * s;
    for (int e = threadIdx.x; e < stage.n_taps + kPlaces; e += kThreads) {
      const int place = e - stage.n_taps;
      const int buffer = place == kOut ? stage.out : place == kResidual ? stage.residual : place == kFactor ? stage.factor : -1;
      own[e] = place < 0 ? entry_of_tap<T>(p, stage, e) : entry_of(p, buffer, 0, 0);
    }
  }
}

// Where a row whose pixel is in row i of sample's image reads or writes; outside the image it reads zeros.
__device__ inline int place_of(const Program& p, const Entry& entry, int wave, int sample, int i) {
  const int y = i + entry.dy, x = wave - p.slope * i + entry.dx;
  const bool inside = 0 <= y && y < p.height && 0 <= x && x < p.width;
  const int slot = (x + p.slope * y) % entry.waves * p.rows + y % p.rows;
  return inside ? p.zero_size + sample * p.sample_size + entry.at + slot * entry.stride : 0;
}

// Notes where a row reads a tap; behind the channels of its buffer it reads zeros.
template <typename T>
__device__ inline void note_reads(const Entry& entry, int row, int at, const ThreadBlock<T>& block) {
  int read = 0;
  if constexpr (sizeof(T) != sizeof(float))
    for (; (entry.first + read) % 4 == 0 && read + 4 <= entry.live; read += 4, at += 64)
      *reinterpret_cast<int4*>(block.offsets + read_at<T>(entry.first + read, row, block.rows)) = {at, at + 16, at + 32,
                                                                                                   at + 48};
#pragma unroll 1
  for (; read < entry.all; ++read, at += 16)
    block.offsets[read_at<T>(entry.first + read, row, block.rows)] = read < entry.live ? at : 0;
}

// Finds where each row reads and writes. Rows behind the last read zeros.
template <typename T>
__device__ void locate(const Program& p, const Stage& stage, const RowBlock& rows, const ThreadBlock<T>& block) {
  const int r = threadIdx.x & (block.rows - 1), row = rows.first + r, pixel = row / block.samples;
  const int sample = row - pixel * block.samples, i = rows.pixels.top + pixel * rows.pixels.step, n_taps = stage.n_taps;
  int* places = places_of(stage, block);
  for (int e = threadIdx.x >> block.row_bits; e < n_taps + kPlaces; e += kThreads >> block.row_bits) {
    const Entry entry = rows.entries[e];
    int at = r < rows.count ? place_of(p, entry, rows.wave, sample, i) : 0;
    if (e < n_taps) {
      note_reads(entry, r, at, block);
      continue;
    }
    if (e == n_taps + kCondition) {
      const int j = rows.wave - p.slope * i;
      at = sample * p.cond_pixels + (p.cond_pixels > 1 ? i * p.width + j : 0);
    }
    places[(e - n_taps) * block.rows + r] = at;
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
