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

#include "../matrix_product.h"
#include "columns.h"
#include "tiling.h"

namespace vlae::cuda::pixelcnn_sample {

static_assert(kPlaces == format_of(Dtype::float32).batch, "there is a place behind the last tile's");
constexpr int kHalf = kAhead<float> / 2;  // tiles that are loaded at once, while those of the other half are multiplied

template <>
struct Ahead<float> {
  const uint4* from = nullptr;  // of which columns
  uint4 at[2][kHalf][2];        // [half][tile][step of 8 products]
};

template <int Tiles>
struct Sums<float, Tiles> {
  float of[Tiles][4] = {};         // of the high parts, and what they start from
  float low[Tiles][2][2][4] = {};  // [step of 8 products]: of the low part of the weight, of the other factor
};

template <int Tiles>
__device__ inline void start_sums(Sums<float, Tiles>& sums, int, const float2& from) {
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
    for (int row = 0; row < 2; ++row) sums.of[tile][row] = from.x, sums.of[tile][row + 2] = from.y;
}

template <int Tiles>
__device__ inline float2 sum_at(const Sums<float, Tiles>& sums, int tile, int row, int) {
  const auto all = [&](int i) {
    const auto& low = sums.low[tile];
    return sums.of[tile][i] + ((low[0][0][i] + low[0][1][i]) + (low[1][0][i] + low[1][1][i]));
  };
  return {all(row), all(row + 2)};
}

// Loads tiles first .. first + kHalf - 1, as far as there are.
__device__ inline void load_half(Ahead<float>& ahead, int half, const ColumnWeights& columns, int first) {
  const int step = hidden(columns.step);
#pragma unroll
  for (int tile = 0; tile < kHalf; ++tile)
#pragma unroll
    for (int eight = 0; eight < 2; ++eight)
      load_if(ahead.at[half][tile][eight], columns.from + (first + tile) * step + 32 * eight, first + tile < columns.tiles);
}

// Loads what is not there yet.
__device__ inline void look_ahead(Ahead<float>& ahead, const ColumnWeights& columns) {
  if (ahead.from != columns.from)
    for (int half = 0; half < 2; ++half) load_half(ahead, half, columns, half * kHalf);
  ahead.from = columns.from;
}

// Nothing: `multiply` has loaded it.
__device__ inline void load_next(Ahead<float>&, const ColumnWeights&) {}

// Where a lane reads 4 products of a tile of row lane / 4 of each tile of rows.
template <int Tiles>
struct FactorsAt {
  const float* of[Tiles];
  const int* reads;  // [tile of products][row][4 products], behind that tile

  // What is behind the last tile is found too, and not read.
  __device__ void find(const float* cache, int rows) {
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
__device__ inline void multiply_tile(Sums<float, Tiles>& sums, const uint4 (&weights)[2], const FactorsAt<Tiles>& at) {
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
__device__ inline void multiply_half(Sums<float, Tiles>& sums, const uint4 (&weights)[kHalf][2], int left, const float* cache,
                                     FactorsAt<Tiles>& at, int rows) {
#pragma unroll
  for (int tile = 0; tile < kHalf; ++tile) {
    if (!IsFull && tile >= left) break;
    const FactorsAt<Tiles> now = at;
    at.find(cache, rows);
    multiply_tile(sums, weights[tile], now);
  }
}

// Adds all products of some columns, and loads the first ones of the next. Nobody reads the sums of rows behind the last.
template <bool InShared, int Tiles>
__device__ void multiply(Sums<float, Tiles>& sums, Ahead<float>& ahead, const ColumnWeights& columns, const ColumnWeights& next,
                         const float* cache, const int* reads, int rows) {
  look_ahead(ahead, columns);
  FactorsAt<Tiles> at;
  at.reads = reads;
  at.find(cache, rows);
  for (int first = 0; first == 0 || first < columns.tiles; first += 2 * kHalf) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int here = first + half * kHalf, then = here + 2 * kHalf, left = columns.tiles - here;
      if (first > 0 && left <= 0) break;
      if (Tiles == 1 && left >= kHalf)  // more would not fit into registers
        multiply_half<true>(sums, ahead.at[half], left, cache, at, rows);
      else
        multiply_half<false>(sums, ahead.at[half], left, cache, at, rows);
      if (then < columns.tiles)
        load_half(ahead, half, columns, then);
      else
        load_half(ahead, half, next, half * kHalf);
    }
  }
  ahead.from = next.from;
}

}  // namespace vlae::cuda::pixelcnn_sample
