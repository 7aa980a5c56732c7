// Turns the sums of a block of rows into outputs: adds slices, bias and condition, then activation and residual.
#pragma once

#include "../activate.h"
#include "../conversions.h"
#include "rows.h"

namespace vlae::cuda::pixelcnn_sample {

__device__ inline float sum_of(float a, float b) { return a + b; }
__device__ inline float2 sum_of(float2 a, float2 b) { return {a.x + b.x, a.y + b.y}; }

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

// The biases of a channel's columns, from where they are kept or from the packed weights.
template <typename Value, typename T>
__device__ inline Value bias_of(const float* kept, const T* packed) {
  if (kept) return *reinterpret_cast<const Value*>(kept);
  if constexpr (sizeof(Value) == sizeof(float))
    return to_float(packed[0]);
  else
    return {to_float(packed[0]), to_float(packed[1])};
}

__device__ inline float activated(Activation activation, float x) { return activate_in_stage(activation, x); }
__device__ inline float activated(Activation activation, float2 x) {
  return times_sigmoid(activation == Activation::gate ? tanhf(x.x) : x.x, x.y);
}

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
      write_output(stage, row, c, activated(stage.activation, pre), block);
    }
  }
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
  const int* conditions = block.offsets + (stage.n_taps + 2) * block.rows;
  const int64_t cond_start = static_cast<int64_t>(block.first_sample) * p.cond_pixels;
  for (int c = threadIdx.x & (channels - 1); c < channels && first + c < stage.channels; c += kThreads) {
    const int column = (first + c) * kColumns, chunk = (c * kColumns) >> stage.chunk_bits;
    const float* sums = block.sums + chunk * stage.slices * warp_sums + (column & (width - 1));
    const Value bias = bias_of<Value>(block.biases ? block.biases + stage.first_bias + column : nullptr, packed + column);
    for (int row = static_cast<int>(threadIdx.x) >> stage.pass_bits; row < rows; row += row_step) {
      Value pre = sum_of(sum_of_slices<Value>(sums + row * width, stage.slices, warp_sums), bias);
      if (cond)
        pre = sum_of(pre, *reinterpret_cast<const Value*>(cond + (cond_start + conditions[row]) * p.cond_columns + column));
      write_output(stage, row, first + c, activated(stage.activation, pre), block);
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
