// Sums of products of a block of rows: Rows x (32 lanes x Columns) of one warp, over its slice of the products.
//
// Weights go from L2 to registers, each read by one lane once per block of rows, so shared memory would only be a detour;
// the next group of 4 products is on its way while this one is multiplied. Activations are read 4 at a time, all lanes the
// same.
#pragma once

#include "../device.h"
#include "program.h"
#include "tiling.h"

namespace vlae::cuda::pixelcnn_sample {

struct Weights {
  float at[4][4];  // [product, column]
};

template <int Columns>
__device__ inline Weights load_weights(const float* from, int columns) {
  Weights w = {};
#pragma unroll
  for (int k = 0; k < 4; ++k, from += columns) {
    if constexpr (Columns == 4) {
      const float4 v = __ldg(reinterpret_cast<const float4*>(from));
      w.at[k][0] = v.x, w.at[k][1] = v.y, w.at[k][2] = v.z, w.at[k][3] = v.w;
    } else {
      const float2 v = __ldg(reinterpret_cast<const float2*>(from));
      w.at[k][0] = v.x, w.at[k][1] = v.y;
    }
  }
  return w;
}

// Adds an output's products in ascending order, in one accumulator: the bits do not depend on Rows.
template <int Rows, int Columns>
__device__ inline void multiply_group(float (&sums)[Rows][Columns], const Weights& w, const float4* (&at)[Rows]) {
#pragma unroll
  for (int r = 0; r < Rows; ++r) {
    const float4 a = *at[r]++;
#pragma unroll
    for (int c = 0; c < Columns; ++c) {
      sums[r][c] = fmaf(a.x, w.at[0][c], sums[r][c]);
      sums[r][c] = fmaf(a.y, w.at[1][c], sums[r][c]);
      sums[r][c] = fmaf(a.z, w.at[2][c], sums[r][c]);
      sums[r][c] = fmaf(a.w, w.at[3][c], sums[r][c]);
    }
  }
}

// weight: this lane's part of the slice's first group, `next` what is there. offsets: [tap][most_rows]. sums_out:
// [row][32 x Columns] of this warp.
template <int Rows, int Columns>
__device__ void multiply(const Program& p, const Stage& stage, int slice, const float* from, Weights next, const float* cache,
                         const int* offsets, int most_rows, float* sums_out) {
  float sums[Rows][Columns] = {};
  const int last = first_group(stage, slice + 1), step = 4 * stage.columns;
  int group = first_group(stage, slice), tap = stage.slice_taps[slice];
  for (; group < last; ++tap) {
    const SourceTap& source = p.taps[stage.taps + tap];
    const float4* at[Rows];
    const int end = min(last, source.group + p.rings[source.buffer].groups);
#pragma unroll
    for (int r = 0; r < Rows; ++r)
      at[r] = reinterpret_cast<const float4*>(cache + offsets[tap * most_rows + r]) + (group - source.group);
#pragma unroll 1  // more take so many registers that they spill
    for (; group < end; ++group) {
      const Weights w = next;
      from += step;
      if (group + 1 < last) next = load_weights<Columns>(from, stage.columns);
      multiply_group<Rows, Columns>(sums, w, at);
    }
  }
  const int lane = threadIdx.x % 32;
#pragma unroll
  for (int r = 0; r < Rows; ++r)
#pragma unroll
    for (int c = 0; c < Columns; ++c) sums_out[(r * 32 + lane) * Columns + c] = sums[r][c];
}

}  // namespace vlae::cuda::pixelcnn_sample
