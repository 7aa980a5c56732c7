// Sums of products of a quad with the values before its block: 4 rows x up to 8 samples of one warp.
//
// The values are dealt to the lanes, so a weight is read once for all samples of the tile, 4 of them by a lane at once, and no
// lane reads one that is dead. At the end the lanes halve their sums among them until each has one: 31 shuffles for 32 sums.
#pragma once

#include "four.h"
#include "tile.h"

namespace vlae::cuda::made_inverse {

// Makes sums[0] the sum over all lanes of sums[lane / (32 / N)], N = 2 * Half at first. The order of additions is the same for
// every N.
template <int Half, int Bit = kLanes / 2, int N>
__device__ inline void add_lanes(float (&sums)[N]) {
  const bool upper = threadIdx.x & Bit;
#pragma unroll
  for (int i = 0; i < Half; ++i) {
    const float other = __shfl_xor_sync(~0u, upper ? sums[i] : sums[i + Half], Bit);
    sums[i] = (upper ? sums[i + Half] : sums[i]) + other;
  }
  if constexpr (Half == 0) sums[0] += __shfl_xor_sync(~0u, sums[0], Bit);
  if constexpr (Bit > 1) add_lanes<Half / 2, Bit / 2>(sums);
}

// Values that a lane has on their way at once, as many as there are registers for.
template <int Samples>
constexpr int kAhead = Samples == 1 ? 8 : 16 / Samples;

// sums: [sample][row of the block], from the first row of the quad on.
template <typename T, int Samples>
__device__ void multiply(const Quad& quad, const Four<T>* packed, const Tile<T>& tile, float* sums) {
  const int lane = threadIdx.x % kLanes;
  const float* known[Samples];
  const Four<T>* weights = packed + quad.weights + 1;
#pragma unroll
  for (int s = 0; s < Samples; ++s)
    known[s] = tile.known + min(s, tile.samples - 1) * static_cast<int64_t>(tile.values) + quad.reads;
  float own[kLaneRows * Samples] = {};  // [row][sample]
  for (int k = lane; k < quad.count; k += kAhead<Samples> * kLanes) {
    Four<T> w[kAhead<Samples>] = {};
    float value[kAhead<Samples>][Samples] = {};
#pragma unroll
    for (int a = 0; a < kAhead<Samples>; ++a)
      if (k + a * kLanes < quad.count) {
        w[a] = weights[k + a * kLanes];
#pragma unroll
        for (int s = 0; s < Samples; ++s) value[a][s] = known[s][k + a * kLanes];
      }
#pragma unroll
    for (int a = 0; a < kAhead<Samples>; ++a)
#pragma unroll
      for (int i = 0; i < kLaneRows * Samples; ++i)
        own[i] = fmaf(to_float(w[a].at[i / Samples]), value[a][i % Samples], own[i]);
  }
  add_lanes<kLaneRows * Samples / 2>(own);
  constexpr int kCopies = kLanes / (kLaneRows * Samples);  // lanes with the same sum
  const int row = lane / kCopies / Samples, s = lane / kCopies % Samples;
  if (lane % kCopies || s >= tile.samples) return;
  const float biased = own[0] + to_float(packed[quad.weights].at[row]);
  sums[s * kRows + row] = biased + tile.condition(quad, row, s);
}

}  // namespace vlae::cuda::made_inverse
