// Turns the sums of a block of rows into outputs: adds slices, bias and condition, then activation and residual.
#pragma once

#include "output.h"

namespace vlae::cuda::pixelcnn_sample {

// Adds slices in their order. All are on their way before the first is added.
template <typename Value>
__device__ inline Value sum_of_slices(const float* from, int slices, int apart) {
  Value parts[kWarps] = {};
#pragma unroll
  for (int slice = 0; slice < kWarps; ++slice)
    if (slice < slices) parts[slice] = *reinterpret_cast<const Value*>(from + slice * apart);
  Value sum = parts[0];
#pragma unroll
  for (int slice = 1; slice < kWarps; ++slice)
    if (slice < slices) sum = sum_of(sum, parts[slice]);
  return sum;
}

__device__ inline float activated(Activation activation, float x) { return activate_in_stage(activation, x); }
__device__ inline float activated(Activation activation, float2 x) {
  return times_sigmoid(activation == Activation::gate ? tanhf(x.x) : x.x, x.y);
}

// Value: what a channel is made of, one column or two. A thread's rows are of one channel as far as there are threads for all.
template <typename Value, typename T>
__device__ void finish_channels(const Program& p, const Stage& stage, const Tensors& t, int first_chunk, int rows,
                                const ThreadBlock<T>& block) {
  constexpr int kColumns = sizeof(Value) / sizeof(float);
  const int channels = 1 << stage.pass_bits, width = 1 << stage.chunk_bits, warp_sums = block.rows * kMaxColumns;
  const int row_step = max(1, kThreads >> stage.pass_bits);
  const int first = (first_chunk << stage.chunk_bits) / kColumns;
  const float* cond = stage.cond < 0 ? nullptr : t.cond + stage.cond;
  const T* packed = static_cast<const T*>(t.packed) + 16 / sizeof(T) * static_cast<int64_t>(stage.bias);
  const int64_t cond_start = static_cast<int64_t>(block.first_sample) * p.cond_pixels;
  for (int c = threadIdx.x & (channels - 1); c < channels && first + c < stage.channels; c += kThreads) {
    const int column = (first + c) * kColumns, chunk = (c * kColumns) >> stage.chunk_bits;
    const float* sums = block.sums + chunk * stage.slices * warp_sums + (column & (width - 1));
    const Value bias = bias_of<Value>(block.biases ? block.biases + stage.first_bias + column : nullptr, packed + column);
    for (int row = static_cast<int>(threadIdx.x) >> stage.pass_bits; row < rows; row += row_step) {
      Value pre = sum_of(sum_of_slices<Value>(sums + row * width, stage.slices, warp_sums), bias);
      if (cond)
        pre = sum_of(pre, *reinterpret_cast<const Value*>(
                              cond + (cond_start + place_of(stage, kCondition, row, block)) * p.cond_columns + column));
      write_output(stage, row, place_of(stage, kOut, row, block), first + c, activated(stage.activation, pre), block);
    }
  }
}

// Writes the channels of the chunks that were just multiplied.
template <typename T>
__device__ void finish_chunks(const Program& p, const Stage& stage, const Tensors& t, int first_chunk, int rows,
                              const ThreadBlock<T>& block) {
  if (is_pair(stage.activation))
    finish_channels<float2>(p, stage, t, first_chunk, rows, block);
  else
    finish_channels<float>(p, stage, t, first_chunk, rows, block);
}

}  // namespace vlae::cuda::pixelcnn_sample
