// Turns the sums of a block of rows into outputs: adds slices, bias and condition, then activation and residual.
#pragma once

#include "../activate.h"
#include "../conversions.h"
#include "rows.h"

namespace vlae::cuda::pixelcnn_sample {

template <typename T>
struct Finish {
  const Stage& stage;
  const float *sums, *cond;
  const T* bias;
  int warp_sums, first_chunk;

  // Adds the slices of a row in their order, bias, condition.
  __device__ float pre_activation(int row, int column, int64_t cond_row) const {
    const int width = 1 << stage.chunk_bits, chunk = (column >> stage.chunk_bits) - first_chunk;
    const float* from = sums + chunk * stage.slices * warp_sums + row * width + (column & (width - 1));
    float sum = *from;
    for (int slice = 1; slice < stage.slices; ++slice) sum += from[slice * warp_sums];
    sum += to_float(bias[column]);
    return cond ? sum + cond[cond_row + column] : sum;
  }

  __device__ float output(int row, int channel, int64_t cond_row) const {
    if (!is_pair(stage.activation)) return activate_in_stage(stage.activation, pre_activation(row, channel, cond_row));
    const float a = pre_activation(row, 2 * channel, cond_row), b = pre_activation(row, 2 * channel + 1, cond_row);
    return times_sigmoid(stage.activation == Activation::gate ? tanhf(a) : a, b);
  }
};

// Multiplies an output by its factor, adds the residual, and writes it.
template <typename T>
__device__ inline void write_output(const Stage& stage, int row, int channel, float out, const ThreadBlock<T>& block) {
  const int* entries = block.offsets + stage.n_taps * block.rows + row;
  if (stage.factor >= 0) out *= to_float(block.cache[entries[3 * block.rows] + channel]);
  if (stage.residual >= 0) out += to_float(block.cache[entries[block.rows] + channel]);
  block.cache[entries[0] + channel] = from_float<T>(out);
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
  const T* bias = packed + 16 / sizeof(T) * static_cast<int64_t>(stage.bias);
  const T* gain = packed + 16 / sizeof(T) * static_cast<int64_t>(stage.weight);
  const float scale = 1.0f / static_cast<float>(stage.channels), eps = to_float(gain[stage.columns]);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int row = static_cast<int>(threadIdx.x) / 32; row < rows; row += kWarps) {
    const T* x = block.cache + block.offsets[row];
    float sum = 0, squares = 0;
    for (int c = lane; c < stage.channels; c += 32) sum += to_float(x[c]);
    const float mean = sum_of_lanes(sum) * scale;
    for (int c = lane; c < stage.channels; c += 32) squares = fmaf(to_float(x[c]) - mean, to_float(x[c]) - mean, squares);
    const float factor = 1.0f / sqrtf(sum_of_lanes(squares) * scale + eps);
    for (int c = lane; c < stage.channels; c += 32) {
      const float pre = (to_float(x[c]) - mean) * factor * to_float(gain[c]) + to_float(bias[c]);
      write_output(stage, row, c, activate_in_stage(stage.activation, pre), block);
    }
  }
}

// Writes the channels of the chunks that were just multiplied.
template <typename T>
__device__ void finish_chunks(const Program& p, const Stage& stage, const Tensors& t, int first_chunk, int rows,
                              const ThreadBlock<T>& block) {
  const int first = (first_chunk << stage.chunk_bits) / (is_pair(stage.activation) ? 2 : 1);
  const float* cond = stage.cond < 0 ? nullptr : t.cond + stage.cond;
  const T* bias = static_cast<const T*>(t.packed) + 16 / sizeof(T) * static_cast<int64_t>(stage.bias);
  const Finish<T> finish = {stage, block.sums, cond, bias, block.rows * kMaxColumns, first_chunk};
  const int* entries = block.offsets + stage.n_taps * block.rows;
  const int64_t cond_start = static_cast<int64_t>(block.first_sample) * p.cond_pixels;
  for (int item = threadIdx.x; item < rows << stage.pass_bits; item += kThreads) {
    const int row = item >> stage.pass_bits, channel = first + (item & ((1 << stage.pass_bits) - 1));
    if (channel >= stage.channels) continue;
    const float out = finish.output(row, channel, (cond_start + entries[2 * block.rows + row]) * p.cond_columns);
    write_output(stage, row, channel, out, block);
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
