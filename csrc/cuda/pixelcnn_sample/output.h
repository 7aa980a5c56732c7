// Outputs of a stage: what both kinds of stages, of float32 and of 16 bits, do behind their sums; and norms.
#pragma once

#include "../activate.h"
#include "../conversions.h"
#include "rows.h"

namespace vlae::cuda::pixelcnn_sample {

// Multiplies an output by its factor, adds the residual, and writes it. place: of its pixel.
template <typename T>
__device__ inline void write_output(const Stage& stage, int row, int place, int channel, float out,
                                    const ThreadBlock<T>& block) {
  if (stage.factor >= 0) out *= to_float(block.cache[place_of(stage, kFactor, row, block) + channel]);
  if (stage.residual >= 0) out += to_float(block.cache[place_of(stage, kResidual, row, block) + channel]);
  block.cache[place + channel] = from_float<T>(out);
}

// The sum over a warp's lanes, the same bits in each.
__device__ inline float sum_of_lanes(float x) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  return x;
}

// Writes a block of rows of a norm, a warp for each.
template <typename T>
__device__ void normalise_rows(const Stage& stage, const Tensors& t, int rows, const ThreadBlock<T>& block) {
  const T* packed = static_cast<const T*>(t.packed);
  const T* bias = packed + 8 / sizeof(T) * static_cast<int64_t>(stage.bias);
  const T* gain = packed + 16 / sizeof(T) * static_cast<int64_t>(stage.weight);
  const float scale = 1.0f / static_cast<float>(stage.channels), eps = to_float(gain[stage.columns]);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int row = static_cast<int>(threadIdx.x) / 32; row < rows; row += kWarps) {
    const T* x = block.cache + block.offsets[stage.place + read_at<T>(0, row, block.rows)];
    const int place = place_of(stage, kOut, row, block);
    float sum = 0, squares = 0;
    for (int c = lane; c < stage.channels; c += 32) sum += to_float(x[c]);
    const float mean = sum_of_lanes(sum) * scale;
    for (int c = lane; c < stage.channels; c += 32) squares = fmaf(to_float(x[c]) - mean, to_float(x[c]) - mean, squares);
    const float factor = 1.0f / sqrtf(sum_of_lanes(squares) * scale + eps);
    for (int c = lane; c < stage.channels; c += 32) {
      const float pre = (to_float(x[c]) - mean) * factor * to_float(gain[c]) + to_float(bias[c]);
      write_output(stage, row, place, c, activate_in_stage(stage.activation, pre), block);
    }
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
