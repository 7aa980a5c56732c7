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

// A warp's part of the products of some chunks: a slice of one. Warps behind the last chunk have none.
struct Part {
  int chunk, slice;
  bool is_any;
};

__device__ inline Part part_of(const Stage& stage, int first_chunk) {
  const int warp = static_cast<int>(threadIdx.x) / 32, chunk = first_chunk + (warp >> stage.slice_bits);
  return {chunk, warp & (stage.slices - 1), chunk < stage.chunks};
}

// The first weights of a part, which wait for nothing that was computed. from: where this lane reads.
struct FloatStart {
  const float* from;
  Weights weights;
};

__device__ inline FloatStart start_of(const Stage& stage, const Part& part, const float* packed) {
  const int column = (part.chunk * 32 + static_cast<int>(threadIdx.x) % 32) * stage.lane_columns;
  FloatStart start = {packed + 4 * static_cast<int64_t>(stage.weight), {}};
  start.from += static_cast<int64_t>(first_group(stage, part.slice)) * 4 * stage.columns;
  start.from += column < stage.columns ? column : 0;  // nobody reads the products of lanes behind the last column
  if (first_group(stage, part.slice) == first_group(stage, part.slice + 1)) return start;
  start.weights =
      stage.lane_columns == 4 ? load_weights<4>(start.from, stage.columns) : load_weights<2>(start.from, stage.columns);
  return start;
}

template <int Columns>
__device__ void multiply_rows(const Program& p, const Stage& stage, int rows, int slice, const FloatStart& start,
                              const ThreadBlock<float>& block, float* sums) {
  const auto multiply_up_to = [&]<int Rows>() {
    multiply<Rows, Columns>(p, stage, slice, start.from, start.weights, block.cache, block.offsets, block.rows, sums);
  };
  if (rows > 12)
    multiply_up_to.template operator()<16>();
  else if (rows > 8)
    multiply_up_to.template operator()<12>();
  else if (rows > 4)
    multiply_up_to.template operator()<8>();
  else
    multiply_up_to.template operator()<4>();
}

__device__ void multiply_part(const Program& p, const Stage& stage, const Part& part, int rows, const FloatStart& start,
                              const ThreadBlock<float>& block, float* sums) {
  if (stage.lane_columns == 4)
    multiply_rows<4>(p, stage, rows, part.slice, start, block, sums);
  else
    multiply_rows<2>(p, stage, rows, part.slice, start, block, sums);
}

struct HalfStart {
  const uint4* from;
  int pairs;
  RightOperands operands;
};

template <typename T>
__device__ inline HalfStart start_of(const Stage& stage, const Part& part, const T* packed) {
  const int first = part.chunk * 2 * stage.lane_columns, group = first_group(stage, part.slice);
  const uint4* from = reinterpret_cast<const uint4*>(packed) + stage.weight + first * 32 + threadIdx.x % 32;
  HalfStart start = {from + static_cast<int64_t>(group) * (stage.columns / 16 * 32), stage.columns / 16 - first, {}};
  if (group < first_group(stage, part.slice + 1))
    load_right<16>(start.operands, start.from, min(start.pairs, 2 * stage.lane_columns));
  return start;
}

template <typename T>
__device__ void multiply_part(const Program& p, const Stage& stage, const Part& part, int, const HalfStart& start,
                              const ThreadBlock<T>& block, float* sums) {
  if (stage.lane_columns == 4)
    multiply<16>(p, stage, part.slice, start.pairs, start.from, start.operands, block.cache, block.offsets, block.rows, sums);
  else
    multiply<8>(p, stage, part.slice, start.pairs, start.from, start.operands, block.cache, block.offsets, block.rows, sums);
}

template <typename T>
__device__ void run_rows(const Program& p, const Stage& stage, const Tensors& t, const RowBlock& rows,
                         const ThreadBlock<T>& block) {
  if (stage.is_norm) {
    locate(p, stage, rows, block);
    __syncthreads();  // offsets and activations of the stage before are written
    normalise_rows(stage, t, rows.count, block);
    return;
  }
  for (int chunk = 0; chunk < stage.chunks; chunk += kWarps >> stage.slice_bits) {
    const Part part = part_of(stage, chunk);
    decltype(start_of(stage, part, static_cast<const T*>(nullptr))) start = {};
    if (part.is_any) start = start_of(stage, part, static_cast<const T*>(t.packed));
    if (chunk == 0) locate(p, stage, rows, block);
    __syncthreads();  // offsets and activations of the stage before are written; the last sums have been read
    float* sums = block.sums + static_cast<int>(threadIdx.x) / 32 * block.rows * kMaxColumns;
    if (part.is_any) multiply_part(p, stage, part, rows.count, start, block, sums);
    __syncthreads();
    finish_chunks(p, stage, t, chunk, rows.count, block);
  }
}

template <typename T>
__device__ void run_stage(const Program& p, const Stage& stage, int wave, const Tensors& t, ThreadBlock<T>& block) {
  if (wave < 0 || wave >= p.steps) return;
  const WaveRows<int> all = wave_rows(p.height, p.width, p.slope, wave);
  const WaveRows<int> pixels = wave_rows_at(all, p.slope.value, wave, stage.stride, stage.row, stage.column);
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
    const int pixel = item / block.samples, sample = item - pixel * block.samples, i = pixels.top + pixel;
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

template <typename T>
__device__ void keep_biases(const Program& p, const Tensors& t, float* biases) {
  for (int s = 0; s < p.n_stages; ++s) {
    const Stage& stage = p.stages[s];
    const T* packed = static_cast<const T*>(t.packed) + 16 / sizeof(T) * static_cast<int64_t>(stage.bias);
    for (int c = threadIdx.x; c < stage.columns; c += kThreads) biases[stage.first_bias + c] = to_float(packed[c]);
  }
}

// InShared: the compiler must know that the activations are in shared memory to read them at its rate.
template <typename T, bool InShared>
__global__ void __launch_bounds__(kThreads, 1)
    pixelcnn_sample_sample_kernel(const __grid_constant__ Program p, const __grid_constant__ Tensors t,
                                  const __grid_constant__ Tiling tiling, T* caches) {
  VLAE_SHARED_MEMORY(memory);
  float* sums = reinterpret_cast<float*>(memory);
  float* biases = sums + kWarps * tiling.rows * kMaxColumns;
  T* behind = reinterpret_cast<T*>(biases + tiling.biases);
  const int size = p.zero_size + tiling.samples.value * p.sample_size;
  ThreadBlock<T> block;
  block.sums = sums;
  block.biases = tiling.biases ? biases : nullptr;
  block.cache = InShared ? behind : caches + blockIdx.x * tiling.global_size;
  block.offsets = reinterpret_cast<int*>(InShared ? behind + size : behind);
  block.next_offsets = block.offsets + (p.most_taps + kRowEntries) * tiling.rows;
  block.rows = tiling.rows;
  block.row_bits = tiling.row_bits;
  block.first_sample = blockIdx.x * tiling.samples.value;
  block.samples = blockIdx.x + 1 == gridDim.x ? tiling.left : tiling.samples;

  if (tiling.biases) keep_biases<T>(p, t, biases);
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
