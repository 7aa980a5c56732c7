// The rows of a wave, on the host and in a kernel. Not for the CPU's files of one instruction set: it has an inline function.
#pragma once

#include "../host_device.h"

namespace vlae {

// Rows top, top + step, ... have a pixel in the wave, `count` of them.
template <typename Int>
struct WaveRows {
  Int top, count, step;
};

// The pixels (i, j) of a height x width image with j + slope * i == index, 0 <= index < width + slope * (height - 1). What
// is divided by, slope and stride, may be of a type that knows how.
template <typename Int, typename Slope>
VLAE_HOST_DEVICE inline WaveRows<Int> wave_rows(Int height, Int width, const Slope& slope, Int index) {
  if (slope == 0) return {0, height, 1};
  const Int late = index - (width - 1);  // rows above late / slope are past their last column
  const Int top = late <= 0 ? 0 : (late + slope - 1) / slope;
  const Int last = index / slope, bottom = last < height ? last : height - 1;
  return {top, bottom < top ? 0 : bottom - top + 1, 1};
}

// Those of them with i % stride == row and j % stride == column: all such rows of the wave, or none.
template <typename Int, typename Stride>
VLAE_HOST_DEVICE inline WaveRows<Int> wave_rows_at(const WaveRows<Int>& all, Int slope, Int index, const Stride& stride,
                                                   Int row, Int column) {
  if (stride == 1) return all;
  const Int top = all.top + (row - all.top % stride + stride) % stride, bottom = all.top + all.count - 1;
  // slope + 1 strides more, since what is divided must not be negative
  const bool met = bottom >= top && (index + (slope + 1) * stride - slope * row - column) % stride == 0;
  return {top, met ? (bottom - top) / stride + 1 : 0, stride};
}

// Rows of the largest wave.
template <typename Int>
VLAE_HOST_DEVICE inline Int most_rows(Int height, Int width, Int slope) {
  if (slope == 0) return height;
  const Int rows = (width - 1) / slope + 1;
  return rows < height ? rows : height;
}

}  // namespace vlae
