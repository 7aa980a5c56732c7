// Sums of float32 products of a block of rows: 8 or 16 rows x 16 columns of one warp, over all products.
//
// Tensor cores keep 11 significant bits of a factor (TF32), which would draw other pixels than the reference. So a factor is
// split: high, the nearest number of 11 bits, and low, which is the rest up to 2^-24 of it. Three matrix instructions give
// high high, low high and high low; low low, below 2^-22, is left out. Tensor cores round sums towards zero: those of high high
// of 16 products start from zero and are added by this lane, the others are too small for it to count. An infinite factor
// gives NaN.
//
// The cost of 8 rows x 128 columns x 320 products, in cycles of a multiprocessor: L2 gives the weights in 2,560, at 64 bytes a
// cycle. FMAs would take 2,560 of every 8 rows, their loads and the exchange of sums aside. 960 instructions mma.m16n8k8 take
// 960 at the full rate of an H100, 1,920 at an A100's, since weights are their left operand and so no row of 8 is idle.
#pragma once

#include <type_traits>

#include "../matrix_product.h"
#include "columns.h"
#include "tiling.h"

namespace vlae::cuda::pixelcnn_sample {

static_assert(kPlaces == format_of(Dtype::float32).batch, "there is a place behind the last tile's");
constexpr int kHalf = kAhead<float> / 2;  // tiles that are loaded at once, while those of the other half are multiplied

template <>
struct Ahead<float> {
  uint4 at[2][kHalf][2];  // [half][tile][step of 8 products]
  uint2 bias;
};

template <int Tiles>
struct Sums<float, Tiles> {
  float of[Tiles][4] = {};         // of the high parts, and what they start from
  float low[Tiles][2][2][4] = {};  // [step of 8 products]: of the low part of the weight, of the other factor
};

// conditions: [tile of rows][row of it][pair of columns].
template <int Tiles>
__device__ inline void start_sums(Sums<float, Tiles>& sums, const uint2& bias, const float2 (&conditions)[Tiles][2][1]) {
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
#pragma unroll
    for (int row = 0; row < 2; ++row) {
      const float2& condition = conditions[tile][row][0];
      sums.of[tile][row] = float_of(bias.x) + condition.x, sums.of[tile][row + 2] = float_of(bias.y) + condition.y;
    }
}

template <int Tiles>
__device__ inline float2 sum_at(const Sums<float, Tiles>& sums, int tile, int row, int) {
  const auto all = [&](int i) {
    const auto& low = sums.low[tile];
    return sums.of[tile][i] + ((low[0][0][i] + low[0][1][i]) + (low[1][0][i] + low[1][1][i]));
  };
  return {all(row), all(row + 2)};
}

// Loads the first kHalf of some tiles, as far as there are.
__device__ inline void load_half(Ahead<float>& ahead, const void* packed, int half, const ColumnWeights& columns) {
  const uint4* from = weights_from<float>(packed, columns);
#pragma unroll
  for (int tile = 0; tile < kHalf; ++tile)
#pragma unroll
    for (int eight = 0; eight < 2; ++eight)
      load_if(ahead.at[half][tile][eight], from + tile * kLoads<float> + 32 * eight, tile < columns.tiles);
}

// The same columns, from a tile on.
__device__ inline ColumnWeights columns_from(const ColumnWeights& columns, int first) {
  return {columns.at + first * kLoads<float>, columns.tiles - first, columns.bias};
}

// Loads what comes next, of which there is nothing yet; none where its tiles are 0.
__device__ inline void load_next(Ahead<float>& ahead, const void* packed, const ColumnWeights& next) {
  for (int half = 0; half < 2; ++half) load_half(ahead, packed, half, columns_from(next, half * kHalf));
  load_bias<float>(ahead.bias, packed, next);
}

// Nothing: `multiply` has loaded it.
template <typename Next>
__device__ inline void load_behind(Ahead<float>&, const void*, const Next&) {}

// Where a lane reads 4 products of a tile of row lane / 4 of each tile of rows.
template <int Tiles>
struct FactorsAt<float, Tiles> {
  const float* cache;
  const int* reads;  // [tile of products][row][4 products], behind that tile
  int rows;
  const float* of[Tiles];

  __device__ FactorsAt(const float* from, const int* first_reads, int n_rows) : cache(from), reads(first_reads), rows(n_rows) {
    find();
  }

  // What is behind the last tile is found too, and not read.
  __device__ void find() {
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile)
      of[tile] = cache + reads[((lane_of() / 4 + 8 * tile) & (rows - 1)) * 4 + lane_of() % 4];
    reads += 4 * rows;
  }
};

__device__ inline Split<4> split_weights(const uint4& w) {
  return split<4>({float_of(w.x), float_of(w.y), float_of(w.z), float_of(w.w)});
}

// Adds 16 products.
template <int Tiles>
__device__ inline void multiply_tile(Sums<float, Tiles>& sums, const uint4 (&weights)[2], const FactorsAt<float, Tiles>& at) {
  const Split<4> left[2] = {split_weights(weights[0]), split_weights(weights[1])};
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile) {
    const float4 x = *reinterpret_cast<const float4*>(at.of[tile]);
    float high[4] = {};
    multiply_split(high, sums.low[tile][0], left[0], split<2>({x.x, x.y}));
    multiply_split(high, sums.low[tile][1], left[1], split<2>({x.z, x.w}));
#pragma unroll
    for (int i = 0; i < 4; ++i) sums.of[tile][i] += high[i];
  }
}

// Adds the first `left` tiles of a half, which all are where it is full: then no branch parts the instructions of one tile from
// those of the next.
template <bool IsFull, int Tiles>
__device__ inline void multiply_half(Sums<float, Tiles>& sums, const uint4 (&weights)[kHalf][2], int left,
                                     FactorsAt<float, Tiles>& at) {
#pragma unroll
  for (int tile = 0; tile < kHalf; ++tile) {
    if (!IsFull && tile >= left) break;
    const FactorsAt<float, Tiles> now = at;
    at.find();
    multiply_tile(sums, weights[tile], now);
  }
}

// Adds all products of some columns, and loads the first ones of the next, which `find_next` finds. Nobody reads the sums of
// rows behind the last.
//
// A warp waits for all of its loads at once. So those into a half that has been multiplied begin when the other half is there,
// not before: then nothing is waited for that has just begun. That they are behind it, their address shows.
template <bool InShared, int Tiles, typename Next>
__device__ void multiply(Sums<float, Tiles>& sums, Ahead<float>& ahead, const void* packed, const ColumnWeights& columns,
                         const Next& find_next, FactorsAt<float, Tiles>& at) {
  const ColumnWeights next = find_next();
  int first = 0;
  const auto multiply_next = [&]<int Half>(std::integral_constant<int, Half>) {
    const int left = columns.tiles - first, then = first + kHalf;
    if (first > 0) {
      ColumnWeights other = left > kHalf ? columns_from(columns, then) : columns_from(next, (1 - Half) * kHalf);
      other.at += static_cast<int>(ahead.at[Half][0][0].x) & at.rows >> 31;
      load_half(ahead, packed, 1 - Half, other);
    }
    if (Tiles == 1 && left >= kHalf)  // more would not fit into registers
      multiply_half<true>(sums, ahead.at[Half], left, at);
    else
      multiply_half<false>(sums, ahead.at[Half], left, at);
    first = then;
    if (left > kHalf) return true;
    load_half(ahead, packed, Half, columns_from(next, Half * kHalf));
    if (first == kHalf) load_half(ahead, packed, 1, columns_from(next, kHalf));
    return false;
  };
  while (multiply_next(std::integral_constant<int, 0>{}) && multiply_next(std::integral_constant<int, 1>{})) {
  }
  load_bias<float>(ahead.bias, packed, next);
}

}  // namespace vlae::cuda::pixelcnn_sample
