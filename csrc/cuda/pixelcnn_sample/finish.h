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
    const float added = stage.residual < 0 ? out : out + to_float(block.cache[entries[block.rows + row] + channel]);
    block.cache[entries[row] + channel] = from_float<T>(added);
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
