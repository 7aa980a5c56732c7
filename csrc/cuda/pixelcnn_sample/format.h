// How numbers of a type lie in packed weights and in rings: what the kernel's multiplications read at once.
#pragma once

#include <cstdint>

#include "../../pixelcnn_sample/waves.h"
#include "../number.h"

namespace vlae::cuda {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// A group is what is multiplied at once: 4 products of one lane, or the 16 of a matrix instruction. Columns are rounded up,
// and a pixel is padded, so that the 8 rows that a matrix instruction reads lie in different banks of shared memory.
struct Format {
  int32_t bytes, group, columns, pad;

  VLAE_HOST_DEVICE constexpr int32_t aligned() const { return 16 / bytes; }  // numbers of a 16-byte access
};

VLAE_HOST_DEVICE constexpr Format format_of(Number number) {
  return number == Number::float32 ? Format{4, 4, 4, 0} : Format{2, 16, 16, 8};
}

// Where product k of a column lies in a group of `columns` columns. In 16 bits: by 16 columns, as a warp holds two right
// operands of mma.m16n8k16, 8 numbers of a lane together.
VLAE_HOST_DEVICE constexpr int64_t weight_at(Number number, int64_t k, int64_t column, int64_t columns) {
  if (number == Number::float32) return k * columns + column;
  const int64_t lane = column % 8 * 4 + k % 8 / 2;
  return column / 16 * 256 + lane * 8 + column % 16 / 8 * 4 + k / 8 * 2 + k % 2;
}

}  // namespace vlae::cuda
