// Order of values in packed weights and in rings, by dtype: those that the kernel reads at once lie together.
#pragma once

#include <cstdint>

#include "../../pixelcnn_sample/waves.h"
#include "../dtype.h"

namespace vlae::cuda::pixelcnn_sample {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A tile of weights is 16 products x 16 columns, which a warp's matrix instructions take at once.
constexpr int64_t kTile = 16;

// A group is the products that a lane reads at one place: 4, or the 16 of a tile. A row's places are looked up a batch at a
// time: the 4 of a tile, or those of 4 tiles. Products are filled up to whole batches.
struct Format {
  int32_t bytes, group, batch;

  VLAE_HOST_DEVICE constexpr int32_t aligned() const { return 16 / bytes; }        // values in a 16-byte access
  VLAE_HOST_DEVICE constexpr int32_t tiles() const { return group * batch / 16; }  // of weights in a batch
};

VLAE_HOST_DEVICE constexpr Format format_of(Dtype dtype) {
  return dtype == Dtype::float32 ? Format{4, 4, 4} : Format{2, 16, 4};
}

// Values from a pixel of `groups` groups to the next, or from a sample to the next whose last is pixel: neighbours begin in
// different banks of shared memory, for the rows that a matrix instruction reads at once. In float32 these are two.
constexpr int64_t apart(Dtype dtype, int64_t values) {
  if (dtype != Dtype::float32) return values + 8;
  return values < 16 ? values : round_up(values - 16, 32) + 16;
}

// Place of product k of a column, both within a tile: what a lane has of right operands of mma.m16n8k16, or of left operands
// of mma.m16n8k8, lies together; see PTX. Of these the lane has two neighbouring columns, and products 4 i .. 4 i + 3.
VLAE_HOST_DEVICE constexpr int64_t weight_at(Dtype dtype, int64_t k, int64_t column) {
  if (dtype == Dtype::float32) return k % 4 / 2 * 128 + (column / 2 * 4 + k / 4) * 4 + k % 2 * 2 + column % 2;
  const int64_t lane = column % 8 * 4 + k % 8 / 2;
  return lane * 8 + column / 8 * 4 + k / 8 * 2 + k % 2;
}

// Place of the bias of a column of a tile: those that a lane starts its sums from lie together, 8 bytes of them.
VLAE_HOST_DEVICE constexpr int64_t bias_at(Dtype dtype, int64_t column) {
  return dtype == Dtype::float32 ? column : column % 8 / 2 * 4 + column / 8 * 2 + column % 2;
}

}  // namespace vlae::cuda::pixelcnn_sample
