// A thread block, the rows of a matrix product that it computes at a time, and where they read and write.
#pragma once

#include "../conversions.h"
#include "program.h"
#include "tiling.h"

namespace vlae::cuda::pixelcnn_sample {

constexpr int kThreads = 32 * kWarps;
static_assert(kThreads % kMaxRows == 0, "a thread locates one row at all of its entries");

struct Entry;

// A thread block's memory and its samples. T: the type of activations and weights.
template <typename T>
struct ThreadBlock {
  // Of a block of rows where they read, cf. read_at, then [kPlaces][rows]. Twice: the next rows are located while the last are
  // still being finished.
  int* offsets;
  int* next_offsets;
  const float* biases;  // of all stages; nullptr where they are too many to be held
  const Stage* stages;  // of the program: shared memory is nearer than the cache of constants, which is too small for all
  const Entry* entries;
  int rows;  // the most at a time, 1 << row_bits
  int row_bits;
  T* cache;  // zero_size zeros, then the rings of each sample
  int first_sample;
  Divisor samples;
};

// What a stage's rows read of a tap in one batch of reads, or one of their places; in shared memory.
struct alignas(16) Entry {
  int32_t dy, dx;      // from the row's pixel
  int32_t at, stride;  // of the ring
  int32_t waves;       // of the ring, with magic and shift its Divisor
  uint32_t magic;
  int32_t first;             // number of the first read
  uint8_t shift, all, live;  // all: how many reads; live: how many of them are no zeros
  bool is_condition;
};
static_assert(sizeof(Entry) == kEntryBytes);

// Rows first .. first + count - 1 of a stage's wave; row r is pixel r / samples of sample r % samples.
struct RowBlock {
  int wave, first, count;
  WaveRows<int> pixels;
};

// Where number `read` of what a row reads is in the offsets: batches are a row apart.
template <typename T>
__device__ inline int read_at(int read, int row, int rows) {
  constexpr unsigned kBatch = format_of(dtype_of<T>).batch;
  const unsigned at = static_cast<unsigned>(read);
  return static_cast<int>((at / kBatch * static_cast<unsigned>(rows) + static_cast<unsigned>(row)) * kBatch + at % kBatch);
}

// Where a row writes, or reads its residual, condition or factor: places are behind the reads.
template <typename T>
__device__ inline int place_of(const Stage& stage, int place, int row, const ThreadBlock<T>& block) {
  return block.offsets[read_at<T>(stage.reads + place, row, block.rows)];
}

__device__ inline Entry entry_of(const Ring& ring, const SourceTap& tap, int first, int all, int live) {
  const auto byte = [](int32_t value) { return static_cast<uint8_t>(value); };
  return {tap.dy,    tap.dx,     ring.at, ring.stride, ring.waves.value, ring.waves.magic, first, byte(ring.waves.shift),
          byte(all), byte(live), false};
}

// Lists a stage's entries: one per tap and batch of reads, then its places. As many as add_entries counts.
template <typename T>
__device__ void list_entries(const Program& p, const Stage& stage, Entry* to) {
  constexpr int kBatch = format_of(dtype_of<T>).batch, kGroup = format_of(dtype_of<T>).group;
  for (int tap = 0; tap < stage.n_taps; ++tap) {
    const SourceTap& from = p.taps[stage.taps + tap];
    const Ring& ring = p.rings[from.buffer];
    const int first = first_read(p, stage, tap), end = first_read(p, stage, tap + 1);
    const int last = first + ring.groups;
    for (int read = first, next = 0; read < end; read = next) {
      next = min(end, (read / kBatch + 1) * kBatch);
      *to = entry_of(ring, from, read, next - read, max(0, min(next, last) - read));
      to++->at += kGroup * (read - first);
    }
  }
  const auto place = [&](int which, int buffer) {
    if (buffer >= 0) *to++ = entry_of(p.rings[buffer], {}, stage.reads + which, 1, 1);
  };
  place(kOut, stage.out);
  place(kResidual, stage.residual);
  place(kFactor, stage.factor);
  if (stage.cond >= 0) *to = {0, 0, 0, 0, 0, 0, stage.reads + kCondition, 0, 1, 1, true};
}

// Where a row whose pixel is in row i of sample's image reads or writes; outside the image it reads zeros.
__device__ inline int place_of(const Program& p, const Entry& entry, int wave, int sample, int i) {
  const int y = i + entry.dy, x = wave - p.slope * i + entry.dx;
  if (entry.is_condition) return sample * p.cond_pixels + (p.cond_pixels > 1 ? y * p.width + x : 0);
  const bool inside = 0 <= y && y < p.height && 0 <= x && x < p.width;
  const Divisor waves = {entry.waves, entry.magic, entry.shift};
  const int slot = (x + p.slope * y) % waves * p.rows + y % p.rows;
  return inside ? p.zero_size + sample * p.sample_size + entry.at + slot * entry.stride : 0;
}

// Notes where a row reads an entry; behind the channels of its buffer it reads zeros.
template <typename T>
__device__ inline void note_reads(const Entry& entry, int row, int at, const ThreadBlock<T>& block) {
  constexpr int kGroup = format_of(dtype_of<T>).group;
  int* to = block.offsets + read_at<T>(entry.first, row, block.rows);
  if (entry.live == 4) {
    *reinterpret_cast<int4*>(to) = {at, at + kGroup, at + 2 * kGroup, at + 3 * kGroup};
  } else {
#pragma unroll
    for (int read = 0; read < 4; ++read)
      if (read < entry.all) to[read] = read < entry.live ? at + kGroup * read : 0;
  }
}

// Finds where each row reads and writes. Rows behind the last read zeros.
template <typename T>
__device__ void locate(const Program& p, const Stage& stage, const RowBlock& rows, const ThreadBlock<T>& block) {
  const int r = threadIdx.x & (block.rows - 1), row = rows.first + r, pixel = row / block.samples;
  const int sample = row - pixel * block.samples, i = rows.pixels.top + pixel * rows.pixels.step;
  for (int e = threadIdx.x >> block.row_bits; e < stage.n_entries; e += kThreads >> block.row_bits) {
    const Entry entry = block.entries[stage.first_entry + e];
    note_reads(entry, r, r < rows.count ? place_of(p, entry, rows.wave, sample, i) : 0, block);
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
