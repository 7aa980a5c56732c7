// Sums of 16-bit products of a block of rows: 16 x (up to 16 tiles of 8 columns) of one warp, over its slice.
//
// The matrix instruction mma.m16n8k16 does 2048 products. A lane's part of the left operand is 4 reads of two values of
// shared memory, without bank conflicts since pixels are padded; its part of two right operands lies together in L2, and the
// next group of 16 products is on its way while this one is multiplied.
#pragma once

#include "../matrix_product.h"
#include "program.h"
#include "tiling.h"

namespace vlae::cuda::pixelcnn_sample {

struct RightOperands {
  uint4 pair[8];  // one per two tiles
};

// Leaves the pairs behind the last column as they were: nobody reads their products.
template <int Tiles>
__device__ inline void load_right(RightOperands& right, const uint4* from, int pairs) {
#pragma unroll
  for (int i = 0; i < Tiles / 2; ++i)
    if (i < pairs) right.pair[i] = __ldg(from + i * 32);
}

template <typename T>
__device__ inline uint32_t load_two(const T* from) {
  return *reinterpret_cast<const uint32_t*>(from);
}

// from: this lane's part of the slice's first right operands, `next` what is there. rows: the most at a time. sums_out:
// [row][8 x Tiles].
template <int Tiles, typename T>
__device__ void multiply(const Program& p, const Stage& stage, int slice, int pairs, const uint4* from, RightOperands next,
                         const T* cache, const int* offsets, int rows, float* sums_out) {
  const int lane = threadIdx.x % 32, row = lane / 4, two = lane % 4 * 2;
  const int last = first_group(stage, slice + 1), step = stage.columns / 16 * 32;
  int group = first_group(stage, slice);
  float sums[Tiles][4] = {};
  for (int tap = stage.slice_taps[slice]; group < last; ++tap) {
    const SourceTap& source = p.taps[stage.taps + tap];
    const int end = min(last, source.group + p.rings[source.buffer].groups), first = 16 * (group - source.group) + two;
    const T* above = cache + (row < rows ? offsets[tap * rows + row] : 0) + first;
    const T* below = cache + (row + 8 < rows ? offsets[tap * rows + row + 8] : 0) + first;
#pragma unroll 1
    for (; group < end; ++group, above += 16, below += 16) {
      const RightOperands right = next;
      from += step;
      if (group + 1 < last) load_right<Tiles>(next, from, pairs);
      const uint32_t left[4] = {load_two(above), load_two(below), load_two(above + 8), load_two(below + 8)};
#pragma unroll
      for (int tile = 0; tile < Tiles; tile += 2) {
        const uint4& b = right.pair[tile / 2];
        multiply_matrices<T>(sums[tile], left, b.x, b.y);
        multiply_matrices<T>(sums[tile + 1], left, b.z, b.w);
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile) {
    float* out = sums_out + row * 8 * Tiles + tile * 8 + two;
    if (row < rows) *reinterpret_cast<float2*>(out) = {sums[tile][0], sums[tile][1]};
    if (row + 8 < rows) *reinterpret_cast<float2*>(out + 64 * Tiles) = {sums[tile][2], sums[tile][3]};
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
