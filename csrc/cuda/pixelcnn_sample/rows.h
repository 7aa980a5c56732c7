// A thread block, the rows of a matrix product that it computes at a time, and where they read and write.
#pragma once

#include "../conversions.h"
#include "program.h"
#include "tiling.h"

namespace vlae::cuda::pixelcnn_sample {

constexpr int kThreads = 32 * kWarps;
static_assert(kThreads % kMaxRows == 0, "a thread locates one row at all of its entries");

struct Entry;
struct Reached;

// A thread block's memory and its samples. T: the type of activations and weights.
template <typename T>
struct ThreadBlock {
  // Where a block of rows reads and writes, cf. read_at: of a section, or of all stages in a step. Twice: the next ones are
  // located while the last are still being finished. reached: what all stages have, in this step; before the
  // first the pixels that are drawn.
  int* table;
  int* next_table;
  int* offsets;  // the table, from where the first place of all stages would be in it
  Reached* reached;
  const float* conditions;  // of its samples; nullptr where they are in global memory
  const Stage* stages;      // of the program: shared memory is nearer than the cache of constants, which is too small for all
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
  // Of the ring, with magic and shift its Divisor; 0: the place of a condition, in values where there is one a sample, else in
  // pixels.
  int32_t waves;
  uint32_t magic;
  int32_t first;                    // number of the first read, among those of all stages
  uint8_t shift, stage, all, live;  // all: how many reads; live: how many of them are no zeros
};
static_assert(sizeof(Entry) == kEntryBytes);

// The wave that a stage has reached, and its rows: row r is pixel r / samples of sample r % samples, and the pixels are in rows
// top, top + step, ... of the image.
struct alignas(8) Reached {
  int32_t wave, top, step, rows;
};
static_assert(sizeof(Reached) == kReachedBytes);

// Where number `read` of what a row reads is in the offsets: batches are a row apart.
template <typename T>
__device__ inline int read_at(int read, int row, int rows) {
  constexpr unsigned kBatch = format_of(dtype_of<T>).batch;
  const unsigned at = static_cast<unsigned>(read);
  return static_cast<int>((at / kBatch * static_cast<unsigned>(rows) + static_cast<unsigned>(row)) * kBatch + at % kBatch);
}

// Where a row writes, or reads its residual, condition or factor: places are behind the reads.
template <typename T>
__device__ inline int place_of(const Head& stage, int place, int row, const ThreadBlock<T>& block) {
  return block.offsets[stage.places + row * kPlaces + place];
}

// All of them, [kOut .. kFactor]; those that a stage does not have may be anything.
template <typename T>
__device__ inline int4 places_of(const Head& stage, int row, const ThreadBlock<T>& block) {
  static_assert(kOut == 0 && kResidual == 1 && kCondition == 2 && kFactor == 3 && kPlaces == 4);
  return *reinterpret_cast<const int4*>(block.offsets + (stage.places + row * kPlaces));
}
__device__ inline int out_of(const int4& places) { return places.x; }
__device__ inline int residual_of(const int4& places) { return places.y; }
__device__ inline int condition_of(const int4& places) { return places.z; }
__device__ inline int factor_of(const int4& places) { return places.w; }

// Lists the entries of stage s: one per tap and batch of reads, then its places. As many as add_entries counts.
template <typename T>
__device__ void list_entries(const Program& p, int s, Entry* to) {
  const Stage& stage = p.stages[s];
  constexpr int kBatch = format_of(dtype_of<T>).batch, kGroup = format_of(dtype_of<T>).group;
  const auto byte = [](int32_t value) { return static_cast<uint8_t>(value); };
  const auto entry = [&](const Ring& ring, int dy, int dx, int first) {
    const Divisor& waves = ring.waves;
    return Entry{dy, dx, ring.at, ring.stride, waves.value, waves.magic, stage.place + first, byte(waves.shift), byte(s), 1, 1};
  };
  for (int tap = 0; tap < stage.n_taps; ++tap) {
    const SourceTap& from = p.taps[stage.taps + tap];
    const Ring& ring = p.rings[from.buffer];
    const int first = first_read(p, stage, tap), end = first_read(p, stage, tap + 1);
    const int last = first + ring.groups;
    for (int read = first, next = 0; read < end; read = next) {
      next = min(end, (read / kBatch + 1) * kBatch);
      *to = entry(ring, from.dy, from.dx, read);
      to->at += kGroup * (read - first);
      to->all = byte(next - read);
      to++->live = byte(max(0, min(next, last) - read));
    }
  }
  const auto place = [&](int which, const Ring& ring) { *to++ = entry(ring, 0, 0, stage.reads() + which); };
  place(kOut, p.rings[stage.out]);
  if (stage.residual >= 0) place(kResidual, p.rings[stage.residual]);
  if (stage.factor >= 0) place(kFactor, p.rings[stage.factor]);
  if (stage.cond >= 0) place(kCondition, {0, p.cond_pixels == 1 ? p.cond_columns : 1, 0, {}});
}

// Where a row whose pixel is in row i of sample's image reads or writes; outside the image it reads zeros.
__device__ inline int place_of(const Program& p, const Entry& entry, int wave, int sample, int i) {
  const int y = i + entry.dy, x = wave - p.slope * i + entry.dx;
  if (entry.waves == 0) return (sample * p.cond_pixels + (p.cond_pixels > 1 ? y * p.width + x : 0)) * entry.stride;
  const bool inside = 0 <= y && y < p.height && 0 <= x && x < p.width;
  const Divisor waves = {entry.waves, entry.magic, entry.shift};
  const int slot = (x + p.slope * y) % waves * p.rows + y % p.rows;
  return inside ? p.zero_size + sample * p.sample_size + entry.at + slot * entry.stride : 0;
}

// Notes where a row reads an entry, or its place; behind the channels of its buffer it reads zeros. to: of the entry's first.
template <typename T>
__device__ inline void note(const Entry& entry, int at, int* to) {
  constexpr int kGroup = format_of(dtype_of<T>).group;
  const auto read = [&](int number) { return number < entry.live ? at + kGroup * number : 0; };
  if (entry.all == 4) {
    *reinterpret_cast<int4*>(to) = {read(0), read(1), read(2), read(3)};
  } else {
#pragma unroll
    for (int number = 0; number < 3; ++number)
      if (number < entry.all) to[number] = read(number);
  }
}

// Some of a block's threads, that share a work among them: this one's number, and how many they are.
struct Threads {
  int number, count;
};

// Finds where rows first, first + 1, ... of entries from .. end - 1 read and write. Rows behind the last read zeros. offsets:
// as in ThreadBlock.
template <typename T>
__device__ void locate(const Program& p, int from, int end, int first, const Reached* reached, int* offsets,
                       const Threads& threads, const ThreadBlock<T>& block) {
  const int r = threads.number & (block.rows - 1), row = first + r, pixel = row / block.samples;
  const int sample = row - pixel * block.samples;
  for (int e = from + (threads.number >> block.row_bits); e < end; e += threads.count >> block.row_bits) {
    const Entry entry = block.entries[e];
    const Reached at = reached[entry.stage];
    const int place = row < at.rows ? place_of(p, entry, at.wave, sample, at.top + pixel * at.step) : 0;
    note<T>(entry, place, offsets + read_at<T>(entry.first, r, block.rows));
  }
}

// Finds what every stage reaches in a step, and before the first one the pixels that are drawn.
template <typename T>
__device__ inline void reach(const Program& p, int step, Reached* to, const Threads& threads, const ThreadBlock<T>& block) {
  for (int s = threads.number - 1; s < p.n_stages; s += threads.count) {
    const bool is_stage = s >= 0;
    const Stage& stage = block.stages[is_stage ? s : 0];
    const int wave = step + (is_stage ? stage.lead : 0);
    WaveRows<int> pixels = {};
    if (0 <= wave && wave < p.steps) {
      pixels = wave_rows(p.height, p.width, p.slope, wave);
      if (is_stage) pixels = wave_rows_at(pixels, p.slope.value, wave, stage.stride, int{stage.row}, int{stage.column});
    }
    to[s] = {wave, pixels.top, pixels.step, pixels.count * block.samples};
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
