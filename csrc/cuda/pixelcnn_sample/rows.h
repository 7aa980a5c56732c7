// A thread block, the rows of a matrix product that it computes at a time, and where they read and write.
#pragma once

#include "program.h"
#include "tiling.h"

namespace vlae::cuda::pixelcnn_sample {

constexpr int kThreads = 32 * kWarps;
static_assert(kThreads % kMaxRows == 0, "a thread locates one row at all of its entries");

// A thread block's memory and its samples. T: the type of activations and weights.
template <typename T>
struct ThreadBlock {
  // [taps + kRowEntries][rows], twice: the next rows are located while the last are still being finished.
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

// Rows first .. first + count - 1 of a stage's wave; row r is pixel r / samples of sample r % samples.
struct RowBlock {
  int wave, first, count;
  WaveRows<int> pixels;
};

// An entry of row (sample, i). Entries below n_taps say where it reads each tap; those behind them where it writes, where
// its residual is, which row its condition is, where its factor is.
__device__ inline int entry_of(const Program& p, const Stage& stage, const RowBlock& rows, int entry, int sample, int i) {
  const int j = rows.wave - p.slope * i, cache = p.zero_size + sample * p.sample_size;
  if (entry < stage.n_taps) {
    const SourceTap& tap = p.taps[stage.taps + entry];
    const int y = i + tap.dy, x = j + tap.dx;
    const bool inside = 0 <= y && y < p.height && 0 <= x && x < p.width;
    return inside ? cache + slot_of(p, tap.buffer, x + p.slope * y, y) : 0;
  }
  if (entry == stage.n_taps) return cache + slot_of(p, stage.out, rows.wave, i);
  if (entry == stage.n_taps + 1) return stage.residual < 0 ? 0 : cache + slot_of(p, stage.residual, rows.wave, i);
  if (entry == stage.n_taps + 3) return stage.factor < 0 ? 0 : cache + slot_of(p, stage.factor, rows.wave, i);
  return sample * p.cond_pixels + (p.cond_pixels > 1 ? i * p.width + j : 0);
}

// Finds where each row reads and writes. Rows behind the last read zeros.
template <typename T>
__device__ void locate(const Program& p, const Stage& stage, const RowBlock& rows, const ThreadBlock<T>& block) {
  const int r = threadIdx.x & (block.rows - 1), row = rows.first + r, pixel = row / block.samples;
  const int sample = row - pixel * block.samples, i = rows.pixels.top + pixel * rows.pixels.step;
  for (int e = threadIdx.x; e < (stage.n_taps + kRowEntries) * block.rows; e += kThreads)
    block.offsets[e] = r < rows.count ? entry_of(p, stage, rows, e >> block.row_bits, sample, i) : 0;
}

}  // namespace vlae::cuda::pixelcnn_sample
