// A whole batch of images in one launch: a thread block draws a tile of samples and stays in the kernel from pixel to pixel.
//
// A step is every stage at the wave it has reached, then the draw. A stage is a matrix product: its rows are samples x pixels
// of the wave, 16 at a time, its columns the P channels before the gate. The thread block's 8 warps share the products of a
// row, so that even one image at a time reads every weight once a step, at the rate of L2; the sums meet in shared memory.
// The last waves of every activation stay in shared memory from the first pixel to the last.
#include "../../pixelcnn_sample/draw.h"
#include "finish.h"
#include "kernel.h"
#include "multiply_float.h"
#include "multiply_half.h"
#include "rows.h"

namespace vlae::cuda::pixelcnn_sample {

namespace {

template <int Columns>
__device__ void multiply_rows(const Program& p, const Stage& stage, int rows, int slice, const float* weight,
                              const ThreadBlock<float>& block, float* sums) {
  if (rows > 12)
    multiply<16, Columns>(p, stage, slice, weight, block.cache, block.offsets, block.rows, sums);
  else if (rows > 8)
    multiply<12, Columns>(p, stage, slice, weight, block.cache, block.offsets, block.rows, sums);
  else if (rows > 4)
    multiply<8, Columns>(p, stage, slice, weight, block.cache, block.offsets, block.rows, sums);
  else
    multiply<4, Columns>(p, stage, slice, weight, block.cache, block.offsets, block.rows, sums);
}

// Computes a slice of the products of a chunk of columns.
__device__ void multiply_slice(const Program& p, const Stage& stage, int chunk, int slice, int rows, const float* weight,
                               const ThreadBlock<float>& block, float* sums) {
  const int column = (chunk * 32 + static_cast<int>(threadIdx.x) % 32) * stage.lane_columns;
  weight += column < stage.columns ? column : 0;  // nobody reads the products of lanes behind the last column
  if (stage.lane_columns == 4)
    multiply_rows<4>(p, stage, rows, slice, weight, block, sums);
  else
    multiply_rows<2>(p, stage, rows, slice, weight, block, sums);
}

template <typename T>
__device__ void multiply_slice(const Program& p, const Stage& stage, int chunk, int slice, int, const T* weight,
                               const ThreadBlock<T>& block, float* sums) {
  const int first = chunk * 2 * stage.lane_columns, pairs = stage.columns / 16 - first;
  const uint4* right = reinterpret_cast<const uint4*>(weight) + first * 32 + threadIdx.x % 32;
  if (stage.lane_columns == 4)
    multiply<16>(p, stage, slice, pairs, right, block.cache, block.offsets, block.rows, sums);
  else
    multiply<8>(p, stage, slice, pairs, right, block.cache, block.offsets, block.rows, sums);
}

// Gives every warp a slice of a chunk; the warps behind the last chunk have none.
template <typename T>
__device__ void multiply_chunks(const Program& p, const Stage& stage, int first_chunk, int rows, const T* packed,
                                const ThreadBlock<T>& block) {
  const int warp = threadIdx.x / 32, chunk = first_chunk + warp / stage.slices;
  if (chunk >= stage.chunks) return;
  const T* weight = packed + 16 / sizeof(T) * static_cast<int64_t>(stage.weight);
  multiply_slice(p, stage, chunk, warp % stage.slices, rows, weight, block, block.sums + warp * block.rows * kMaxColumns);
}

template <typename T>
__device__ void run_rows(const Program& p, const Stage& stage, const Tensors& t, const RowBlock& rows,
                         const ThreadBlock<T>& block) {
  locate(p, stage, rows, block);
  if (stage.is_norm) {
    __syncthreads();  // offsets and activations of the stage before are written
    normalise_rows(stage, t, rows.count, block);
    return;
  }
  for (int chunk = 0; chunk < stage.chunks; chunk += kWarps / stage.slices) {
    __syncthreads();  // offsets and activations of the stage before are written; the last sums have been read
    multiply_chunks(p, stage, chunk, rows.count, static_cast<const T*>(t.packed), block);
    __syncthreads();
    finish_chunks(p, stage, t, chunk, rows.count, block);
  }
}

template <typename T>
__device__ void run_stage(const Program& p, const Stage& stage, int wave, const Tensors& t, ThreadBlock<T>& block) {
  if (wave < 0 || wave >= p.steps) return;
  const WaveRows<int> all = wave_rows(p.height, p.width, p.slope, wave);
  const WaveRows<int> pixels = wave_rows_at(all, p.slope, wave, stage.stride, stage.row, stage.column);
  const int rows = pixels.count * block.samples;
  for (int first = 0; first < rows; first += block.rows) {
    run_rows(p, stage, t, {wave, first, min(block.rows, rows - first), pixels}, block);
    int* const offsets = block.offsets;
    block.offsets = block.next_offsets;
    block.next_offsets = offsets;
  }
}

// A pixel in its sample's rings and in the tensors, where its channels are a plane apart.
template <typename T>
struct Pixel {
  const Program& p;
  const Tensors& t;
  int64_t plane, at_noise, at_image;
  int first;  // of the channels that are drawn: params are theirs
  const T* params;
  T* image;

  __device__ double param(int64_t i) const { return to_float(params[i]); }
  __device__ double noise(int64_t i) const { return to_float(static_cast<const T*>(t.noise)[at_noise + (first + i) * plane]); }
  __device__ double drawn(int64_t c) const { return to_float(image[first + c]); }
  __device__ void draw(int64_t channel, double value) const {
    const int64_t c = first + channel, at = at_image + c * plane;
    const bool known = t.known_mask && t.known_mask[at];
    image[c] = known ? static_cast<const T*>(t.known)[at] : from_float<T>(static_cast<float>(value));
    static_cast<T*>(t.images)[at] = image[c];
  }
};

// Gives each pixel to one thread, since the channels of a mixture follow from each other. The first of several draws clears the
// channels after its own, which stages read before they are drawn.
template <typename T>
__device__ void draw(const Program& p, const DrawAt& which, int wave, const Tensors& t, const ThreadBlock<T>& block) {
  const WaveRows<int> pixels = wave_rows(p.height, p.width, p.slope, wave);
  const int64_t plane = static_cast<int64_t>(p.height) * p.width;
  const auto each = [&](int item, const auto& work) {
    const int sample = item / pixels.count, i = pixels.top + item % pixels.count;
    T* cache = block.cache + p.zero_size + sample * p.sample_size;
    work(static_cast<int64_t>(block.first_sample + sample), static_cast<int64_t>(i) * p.width + wave - p.slope * i,
         cache + slot_of(p, which.buffer, wave, i), cache + slot_of(p, 0, wave, i));
  };
  const int count = block.samples * pixels.count;
  for (int item = threadIdx.x; item < count * which.params; item += kThreads)
    each(item / which.params, [&](int64_t sample, int64_t at, const T* params, T*) {
      const int k = item % which.params;
      const int64_t to = param_of_draw(p.emit, p.image_channels, which.first, which.count, k);
      static_cast<T*>(t.params)[(sample * p.params + to) * plane + at] = params[k];
    });
  for (int item = threadIdx.x; item < count; item += kThreads)
    each(item, [&](int64_t sample, int64_t at, const T* params, T* image) {
      for (int c = which.count; which.first == 0 && c < p.image_channels; ++c) image[c] = from_float<T>(0);
      draw_pixel(p.emit, which.count, t.temperature,
                 Pixel<T>{p, t, plane, sample * p.noises * plane + at, sample * p.image_channels * plane + at, which.first,
                          params, image});
    });
}

// InShared: the compiler must know that the activations are in shared memory to read them at its rate.
template <typename T, bool InShared>
__global__ void __launch_bounds__(kThreads, 1)
    pixelcnn_sample_sample_kernel(const __grid_constant__ Program p, const __grid_constant__ Tensors t,
                                  const __grid_constant__ Tiling tiling, T* caches) {
  VLAE_SHARED_MEMORY(memory);
  float* sums = reinterpret_cast<float*>(memory);
  T* behind = reinterpret_cast<T*>(sums + kWarps * tiling.rows * kMaxColumns);
  const int size = p.zero_size + tiling.samples * p.sample_size;
  ThreadBlock<T> block;
  block.sums = sums;
  block.cache = InShared ? behind : caches + blockIdx.x * tiling.global_size;
  block.offsets = reinterpret_cast<int*>(InShared ? behind + size : behind);
  block.next_offsets = block.offsets + (p.most_taps + kRowEntries) * tiling.rows;
  block.rows = tiling.rows;
  block.row_bits = tiling.row_bits;
  block.first_sample = blockIdx.x * tiling.samples;
  block.samples = static_cast<int>(min(static_cast<int64_t>(tiling.samples), t.batch - block.first_sample));

  for (int i = threadIdx.x; i < size; i += kThreads) block.cache[i] = from_float<T>(0);
  for (int step = p.first_step; step < p.steps; ++step) {
    for (int s = 0, d = 0;; ++s) {
      for (; d < p.n_draws && p.draws[d].after == s; ++d) {
        __syncthreads();  // the parameters of the wave are written
        if (step >= 0) draw(p, p.draws[d], step, t, block);
      }
      if (s == p.n_stages) break;
      run_stage(p, p.stages[s], step + p.stages[s].lead, t, block);
    }
  }
}

template <typename T>
__global__ void pixelcnn_sample_condition_kernel(const __grid_constant__ Condition c) {
  const int64_t all = c.rows * c.columns, stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t item = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; item < all; item += stride) {
    const T* context = static_cast<const T*>(c.context) + item / c.columns * c.dim;
    const T* matrix = static_cast<const T*>(c.matrix) + item % c.columns;
    float sum = 0;
    for (int d = 0; d < c.dim; ++d)
      sum = fmaf(to_float(context[d]), to_float(matrix[static_cast<int64_t>(d) * c.columns]), sum);
    c.cond[item] = sum;
  }
}

}  // namespace

Limits device_limits(const char* op) {
  return {device_attribute(op, cudaDevAttrMultiProcessorCount), device_attribute(op, cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

void run_condition(const char* op, Dtype dtype, const Condition& c, void* stream) {
  const int64_t blocks = (c.rows * c.columns + kThreads - 1) / kThreads;
  with_type(dtype, [&](auto zero) {
    launch(op, pixelcnn_sample_condition_kernel<decltype(zero)>, static_cast<int>(blocks < 65536 ? blocks : 65536), kThreads, 0,
           stream, c);
  });
}

void run_program(const char* op, const Program& program, const Tiling& tiling, const Tensors& tensors, void* caches,
                 void* stream) {
  with_type(program.dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto kernel = tiling.global_size ? pixelcnn_sample_sample_kernel<T, false> : pixelcnn_sample_sample_kernel<T, true>;
    launch(op, kernel, tiling.blocks, kThreads, tiling.shared_bytes, stream, program, tensors, tiling, static_cast<T*>(caches));
  });
}

const char* why_not() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, pixelcnn_sample_sample_kernel<float, true>);
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace vlae::cuda::pixelcnn_sample
