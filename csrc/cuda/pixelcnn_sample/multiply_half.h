// Sums of 16-bit products of a block of rows: 16 or 32 rows x 16 columns of one warp, over all products.
//
// The matrix instruction mma.m16n8k16 does 2048 products. Its left operand comes from shared memory, without bank conflicts
// since pixels are padded. A lane's part of two right operands lies together in L2. The weights of kAhead groups of 16 products
// come at once, into registers, also over the end of a stage: what comes next is known before it is due.
#pragma once

#include "../matrix_product.h"
#include "columns.h"
#include "tiling.h"

namespace vlae::cuda::pixelcnn_sample {

constexpr int kReads = format_of(Dtype::bfloat16).batch;  // groups whose places are read at once
static_assert(kReads == kPlaces && kAhead<Float16> % kReads == 0);

// The weights of the first kAhead groups, each in the place of its number.
template <typename T>
struct Ahead {
  const uint4* from = nullptr;  // of which columns
  uint4 at[kAhead<T>];
};

// Loads groups first .. first + kAhead<T> - 1, as far as there are. All are on their way at once: a load between the products
// would let what is loaded for the next ones wait for it.
template <typename T>
__device__ inline void load_ahead(Ahead<T>& ahead, const ColumnWeights& columns, int first) {
  const int step = hidden(columns.step);
#pragma unroll
  for (int place = 0; place < kAhead<T>; ++place)
    load_if(ahead.at[place], columns.from + (first + place) * step, first + place / kReads * kReads < columns.tiles);
}

// Loads what comes next, of which there is nothing yet; none where its tiles are 0.
template <typename T>
__device__ inline void load_next(Ahead<T>& ahead, const ColumnWeights& next) {
  load_ahead(ahead, next, 0);
  ahead.from = next.from;
}

// Loads what is not there yet.
template <typename T>
__device__ inline void look_ahead(Ahead<T>& ahead, const ColumnWeights& columns) {
  if (ahead.from != columns.from) load_ahead(ahead, columns, 0);
  ahead.from = columns.from;
}

// The left operand of 16 products of 16 rows. at: of row lane % 16 the first product.
template <bool InShared, typename T>
__device__ inline void load_left(uint32_t (&left)[4], const T* cache, int at) {
  const int lane = lane_of();
  if constexpr (InShared) {
    load_matrices(left, cache + at + lane / 16 * 8);
  } else {
    const T* above = cache + __shfl_sync(~0u, at, lane / 4) + lane % 4 * 2;
    const T* below = cache + __shfl_sync(~0u, at, lane / 4 + 8) + lane % 4 * 2;
    left[0] = *reinterpret_cast<const uint32_t*>(above), left[1] = *reinterpret_cast<const uint32_t*>(below);
    left[2] = *reinterpret_cast<const uint32_t*>(above + 8), left[3] = *reinterpret_cast<const uint32_t*>(below + 8);
  }
}

// A lane's sums: [tile of 16 rows][tile of 8 columns], of even and of odd groups, as a matrix instruction has them.
template <typename T, int Tiles>
struct Sums {
  float of[2][Tiles][2][4] = {};
};

template <typename T, int Tiles>
__device__ inline void start_sums(Sums<T, Tiles>& sums, int pair, const float2& from) {
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
    for (int row = 0; row < 2; ++row) sums.of[0][tile][pair][2 * row] = from.x, sums.of[0][tile][pair][2 * row + 1] = from.y;
}

template <typename T, int Tiles>
__device__ inline float2 sum_at(const Sums<T, Tiles>& sums, int tile, int row, int pair) {
  const float *even = sums.of[0][tile][pair] + 2 * row, *odd = sums.of[1][tile][pair] + 2 * row;
  return {even[0] + odd[0], even[1] + odd[1]};
}

// Where a lane reads kReads groups of row lane % 16 of each tile.
template <int Tiles>
struct Reads {
  int4 of[Tiles];
};

// reads: [kReads groups][row][group]. rows: a power of two; lanes behind the last read those of other rows.
template <int Tiles>
__device__ inline void load_reads(Reads<Tiles>& four, const int* reads, int rows) {
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
    four.of[tile] = reinterpret_cast<const int4*>(reads)[(lane_of() % 16 + 16 * tile) & (rows - 1)];
}

template <bool InShared, int Tiles, typename T>
__device__ inline void multiply_group(float (&sums)[Tiles][2][4], const uint4& right, const T* cache, int tile, int at) {
  uint32_t left[4];
  load_left<InShared>(left, cache, at);
  multiply_matrices<T>(sums[tile][0], left, right.x, right.y);
  multiply_matrices<T>(sums[tile][1], left, right.z, right.w);
}

// Adds all products of some columns. Nobody reads the sums of rows behind the last. What is behind the last batch of `reads` is
// read too, and not used. The weights of the next columns are for load_next.
template <bool InShared, int Tiles, typename T>
__device__ void multiply(Sums<T, Tiles>& sums, Ahead<T>& ahead, const ColumnWeights& columns, const ColumnWeights&,
                         const T* cache, const int* reads, int rows) {
  look_ahead(ahead, columns);
  Reads<Tiles> four;
  load_reads(four, reads, rows);
  for (int first = 0;;) {
#pragma unroll
    for (int place = 0; place < kAhead<T>; place += kReads) {
      if (place > 0 && first + place >= columns.tiles) break;
      const Reads<Tiles> now = four;
      load_reads(four, reads += kReads * rows, rows);
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) {
        multiply_group<InShared>(sums.of[0], ahead.at[place], cache, tile, now.of[tile].x);
        multiply_group<InShared>(sums.of[1], ahead.at[place + 1], cache, tile, now.of[tile].y);
        multiply_group<InShared>(sums.of[0], ahead.at[place + 2], cache, tile, now.of[tile].z);
        multiply_group<InShared>(sums.of[1], ahead.at[place + 3], cache, tile, now.of[tile].w);
      }
    }
    first += kAhead<T>;
    if (first >= columns.tiles) break;
    load_ahead(ahead, columns, first);
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
