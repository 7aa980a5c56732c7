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
  uint4 at[kAhead<T>];
  uint2 bias;
};

// Loads groups first .. first + kAhead<T> - 1, as far as there are. All are on their way at once: a load between the products
// would let what is loaded for the next ones wait for it.
template <typename T>
__device__ inline void load_ahead(Ahead<T>& ahead, const void* packed, const ColumnWeights& columns, int first) {
  const uint4* from = weights_from<T>(packed, columns) + first * kLoads<T>;
#pragma unroll
  for (int place = 0; place < kAhead<T>; ++place)
    load_if(ahead.at[place], from + place * kLoads<T>, first + place / kReads * kReads < columns.tiles);
}

// Loads what comes next, of which there is nothing yet; none where its tiles are 0.
template <typename T>
__device__ inline void load_next(Ahead<T>& ahead, const void* packed, const ColumnWeights& next) {
  load_bias<T>(ahead.bias, packed, next);
  load_ahead(ahead, packed, next, 0);
}

// Loads it behind `multiply`, which has not. next: finds what comes next.
template <typename T, typename Next>
__device__ inline void load_behind(Ahead<T>& ahead, const void* packed, const Next& next) {
  load_next(ahead, packed, next());
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
  float of[2][Tiles][2][4];
};

// conditions: [tile of rows][row of it][pair of columns].
template <typename T, int Tiles>
__device__ inline void start_sums(Sums<T, Tiles>& sums, const uint2& bias, const float2 (&conditions)[Tiles][2][2]) {
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
#pragma unroll
    for (int row = 0; row < 2; ++row)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2& condition = conditions[tile][row][i / 2];
        sums.of[0][tile][i / 2][2 * row + i % 2] = half_at<T>(i < 2 ? bias.x : bias.y, i % 2);
        sums.of[1][tile][i / 2][2 * row + i % 2] = i % 2 ? condition.y : condition.x;
      }
}

template <typename T, int Tiles>
__device__ inline float2 sum_at(const Sums<T, Tiles>& sums, int tile, int row, int pair) {
  const float *even = sums.of[0][tile][pair] + 2 * row, *odd = sums.of[1][tile][pair] + 2 * row;
  return {even[0] + odd[0], even[1] + odd[1]};
}

// Where a lane reads kReads groups of row lane % 16 of each tile.
template <typename T, int Tiles>
struct FactorsAt {
  const T* cache;
  const int* reads;  // [kReads groups][row][group], behind those
  int rows;          // a power of two; lanes behind the last read those of other rows
  int4 of[Tiles];

  __device__ FactorsAt(const T* from, const int* first_reads, int n_rows) : cache(from), reads(first_reads), rows(n_rows) {
    find();
  }

  // What is behind the last batch is read too, and not used.
  __device__ void find() {
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile)
      of[tile] = load_early(reinterpret_cast<const int4*>(reads) + ((lane_of() % 16 + 16 * tile) & (rows - 1)));
    reads += kReads * rows;
  }
};

template <bool InShared, int Tiles, typename T>
__device__ inline void multiply_group(float (&sums)[Tiles][2][4], const uint4& right, const T* cache, int tile, int at) {
  uint32_t left[4];
  load_left<InShared>(left, cache, at);
  multiply_matrices<T>(sums[tile][0], left, right.x, right.y);
  multiply_matrices<T>(sums[tile][1], left, right.z, right.w);
}

// Adds all products of some columns. Nobody reads the sums of rows behind the last. The weights of the next columns are for
// load_behind.
template <bool InShared, int Tiles, typename T, typename Next>
__device__ void multiply(Sums<T, Tiles>& sums, Ahead<T>& ahead, const void* packed, const ColumnWeights& columns, const Next&,
                         FactorsAt<T, Tiles>& at) {
  for (int first = 0;;) {
#pragma unroll
    for (int place = 0; place < kAhead<T>; place += kReads) {
      if (place > 0 && first + place >= columns.tiles) return;
      const FactorsAt<T, Tiles> now = at;
      at.find();
#pragma unroll
      for (int tile = 0; tile < Tiles; ++tile) {
        multiply_group<InShared>(sums.of[0], ahead.at[place], at.cache, tile, now.of[tile].x);
        multiply_group<InShared>(sums.of[1], ahead.at[place + 1], at.cache, tile, now.of[tile].y);
        multiply_group<InShared>(sums.of[0], ahead.at[place + 2], at.cache, tile, now.of[tile].z);
        multiply_group<InShared>(sums.of[1], ahead.at[place + 3], at.cache, tile, now.of[tile].w);
      }
    }
    first += kAhead<T>;
    if (first >= columns.tiles) return;
    load_ahead(ahead, packed, columns, first);
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
