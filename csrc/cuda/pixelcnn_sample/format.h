// Order of values in packed weights and in rings, by dtype: those that the kernel reads at once lie together.
#pragma once

#include <cstdint>

#include "../../pixelcnn_sample/waves.h"
#include "../dtype.h"

namespace vlae::cuda::pixelcnn_sample {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A group is the products that are added at once: 4 by one lane, or 16 by a matrix instruction. Columns are rounded up, and a
// pixel is padded, so that the 8 rows that a matrix instruction reads lie in different banks of shared memory. Groups are
// filled up to whole batches, which a lane of 16-bit dtypes takes at once.
struct Format {
  int32_t bytes, group, columns, pad, batch;

  VLAE_HOST_DEVICE constexpr int32_t aligned() const { return 16 / bytes; }  // values in a 16-byte access
};

VLAE_HOST_DEVICE constexpr Format format_of(Dtype dtype) {
  return dtype == Dtype::float32 ? Format{4, 4, 4, 0, 1} : Format{2, 16, 16, 8, 4};
}

// Place of product k of a column in a group of `columns` columns. Dtypes of 16 bits go by 16 columns, as a warp holds two right
// operands of mma.m16n8k16: the 8 values of a lane lie together.
VLAE_HOST_DEVICE constexpr int64_t weight_at(Dtype dtype, int64_t k, int64_t column, int64_t columns) {
  if (dtype == Dtype::float32) return k * columns + column;
  const int64_t lane = column % 8 * 4 + k % 8 / 2;
  return column / 16 * 256 + lane * 8 + column % 16 / 8 * 4 + k / 8 * 2 + k % 2;
}

}  // namespace vlae::cuda::pixelcnn_sample
