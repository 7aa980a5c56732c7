// A whole batch of images in one launch: a block draws a tile of samples and never leaves the kernel between two pixels.
//
// A step is every stage at the wave it has reached, then the draw. A stage is a matrix product: rows are samples x pixels of
// the wave, 16 at a time, columns its channels. The block's 8 warps share the products of a row among them, so that even one
// image at a time reads every weight once a step, at the rate of L2; the sums meet in shared memory. The last waves of every
// activation stay in shared memory from the first pixel to the last.
#include "../../pixelcnn_sample/draw.h"
#include "../device.h"
#include "kernel.h"
#include "multiply_float.h"
#include "multiply_half.h"

namespace vlae::cuda {

namespace {

constexpr int kThreads = 32 * kWarps;

// A block's memory and its samples. T: of activations and weights.
template <typename T>
struct Block {
  // [taps + kRowEntries][rows], twice: where the next rows are is found while these are still being finished.
  int* offsets;
  int* next_offsets;
  float* sums;   // [warp][row][column of its chunk]
  int rows;      // at a time, at most
  T* cache;      // zero_size zeros, then the rings of each sample
  int first_sample, samples;
};

// Rows first .. first + count - 1 of a stage's wave; row r is pixel r % pixels.count of sample r / pixels.count.
struct RowBlock {
  int wave, first, count;
  WaveRows<int> pixels;
};

__device__ int entry_of(const Program& p, const Stage& stage, int stage_index, const RowBlock& rows, int entry, int sample, int i) {
  const int j = rows.wave - p.slope * i, cache = p.zero_size + sample * p.sample_size;
  if (entry < stage.n_taps) {
    const Tap& tap = p.taps[stage.taps + entry];
    const int y = i + tap.dy, x = j + tap.dx;
    const bool inside = 0 <= y && y < p.height && 0 <= x && x < p.width;
    return inside ? cache + slot_of(p, tap.buffer, x + p.slope * y, y) : 0;
  }
  if (entry == stage.n_taps) return cache + slot_of(p, stage_index + 1, rows.wave, i);
  if (entry == stage.n_taps + 1) return stage.residual < 0 ? 0 : cache + slot_of(p, stage.residual, rows.wave, i);
  return sample * p.cond_pixels + (p.cond_pixels > 1 ? i * p.width + j : 0);
}

// Where each row reads and writes. Rows behind the last read zeros.
template <typename T>
__device__ void locate(const Program& p, const Stage& stage, int stage_index, const RowBlock& rows, const Block<T>& block) {
  for (int e = threadIdx.x; e < (stage.n_taps + kRowEntries) * block.rows; e += kThreads) {
    const int r = e % block.rows, row = rows.first + r;
    const int sample = row / rows.pixels.count, i = rows.pixels.top + row % rows.pixels.count;
    block.offsets[e] = r < rows.count ? entry_of(p, stage, stage_index, rows, e / block.rows, sample, i) : 0;
  }
}

template <int Columns>
__device__ void multiply_rows(const Program& p, const Stage& stage, int rows, int slice, const float* weight,
                              const Block<float>& block, float* sums) {
  if (rows > 12)
    multiply<16, Columns>(p, stage, slice, weight, block.cache, block.offsets, block.rows, sums);
  else if (rows > 8)
    multiply<12, Columns>(p, stage, slice, weight, block.cache, block.offsets, block.rows, sums);
  else if (rows > 4)
    multiply<8, Columns>(p, stage, slice, weight, block.cache, block.offsets, block.rows, sums);
  else
    multiply<4, Columns>(p, stage, slice, weight, block.cache, block.offsets, block.rows, sums);
}

// A slice of the products of a chunk of columns.
__device__ void multiply_slice(const Program& p, const Stage& stage, int chunk, int slice, int rows, const float* weight,
                               const Block<float>& block, float* sums) {
  const int column = (chunk * 32 + static_cast<int>(threadIdx.x) % 32) * stage.lane_columns;
  weight += column < stage.columns ? column : 0;  // lanes behind the last column: their products nobody reads
  if (stage.lane_columns == 4)
    multiply_rows<4>(p, stage, rows, slice, weight, block, sums);
  else
    multiply_rows<2>(p, stage, rows, slice, weight, block, sums);
}

template <typename T>
__device__ void multiply_slice(const Program& p, const Stage& stage, int chunk, int slice, int, const T* weight,
                               const Block<T>& block, float* sums) {
  const int first = chunk * 2 * stage.lane_columns, pairs = stage.columns / 16 - first;
  const uint4* right = reinterpret_cast<const uint4*>(weight) + first * 32 + threadIdx.x % 32;
  if (stage.lane_columns == 4)
    multiply<16>(p, stage, slice, pairs, right, block.cache, block.offsets, block.rows, sums);
  else
    multiply<8>(p, stage, slice, pairs, right, block.cache, block.offsets, block.rows, sums);
}

// Every warp a slice of a chunk; the warps behind the last chunk have none.
template <typename T>
__device__ void multiply_chunks(const Program& p, const Stage& stage, int first_chunk, int rows, const T* packed,
                                const Block<T>& block) {
  const int warp = threadIdx.x / 32, chunk = first_chunk + warp / stage.slices;
  if (chunk >= stage.chunks) return;
  const T* weight = packed + 16 / sizeof(T) * static_cast<int64_t>(stage.weight);
  multiply_slice(p, stage, chunk, warp % stage.slices, rows, weight, block, block.sums + warp * block.rows * kMaxColumns);
}

__device__ float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::relu: return x < 0 ? 0.0f : x;  // NaN passes
    case Activation::elu: return x > 0 ? x : expm1f(x);
    default: return x;
  }
}

// The sums of a row's slices in their order, bias and condition; column is one of the stage's.
template <typename T>
struct Finish {
  const Stage& stage;
  const float *sums, *cond;
  const T* bias;
  int warp_sums, first_chunk;

  __device__ float pre_activation(int row, int column, int64_t cond_row) const {
    const int width = 32 * stage.lane_columns, chunk = column / width - first_chunk;
    const float* from = sums + chunk * stage.slices * warp_sums + row * width + column % width;
    float sum = *from;
    for (int slice = 1; slice < stage.slices; ++slice) sum += from[slice * warp_sums];
    sum += to_float(bias[column]);
    return cond ? sum + cond[cond_row + column] : sum;
  }

  __device__ float output(int row, int channel, int64_t cond_row) const {
    if (stage.activation != Activation::gate) return activate(stage.activation, pre_activation(row, channel, cond_row));
    const float a = pre_activation(row, 2 * channel, cond_row), b = pre_activation(row, 2 * channel + 1, cond_row);
    return tanhf(a) / (1.0f + expf(-b));
  }
};

// Writes the channels of the chunks that were just multiplied.
template <typename T>
__device__ void finish_chunks(const Program& p, const Stage& stage, const Tensors& t, int first_chunk, int rows,
                              const Block<T>& block) {
  const int per_channel = stage.activation == Activation::gate ? 2 : 1;
  const int width = 32 * stage.lane_columns / per_channel;  // channels of a chunk
  const int chunks = kWarps / stage.slices, first = first_chunk * width;
  const float* cond = stage.cond < 0 ? nullptr : t.cond + stage.cond;
  const T* bias = static_cast<const T*>(t.packed) + 16 / sizeof(T) * static_cast<int64_t>(stage.bias);
  const Finish<T> finish = {stage, block.sums, cond, bias, block.rows * kMaxColumns, first_chunk};
  const int* entries = block.offsets + stage.n_taps * block.rows;
  const int64_t cond_start = static_cast<int64_t>(block.first_sample) * p.cond_pixels;
  for (int item = threadIdx.x; item < rows * chunks * width; item += kThreads) {
    const int row = item / (chunks * width), channel = first + item % (chunks * width);
    if (channel >= stage.channels) continue;
    const float out = finish.output(row, channel, (cond_start + entries[2 * block.rows + row]) * p.cond_columns);
    const float added = stage.residual < 0 ? out : out + to_float(block.cache[entries[block.rows + row] + channel]);
    block.cache[entries[row] + channel] = from_float<T>(added);
  }
}

template <typename T>
__device__ void run_rows(const Program& p, int stage_index, const Tensors& t, const RowBlock& rows, const Block<T>& block) {
  const Stage& stage = p.stages[stage_index];
  locate(p, stage, stage_index, rows, block);
  for (int chunk = 0; chunk < stage.chunks; chunk += kWarps / stage.slices) {
    __syncthreads();  // offsets are there; activations of the stage before; the sums have been read
    multiply_chunks(p, stage, chunk, rows.count, static_cast<const T*>(t.packed), block);
    __syncthreads();
    finish_chunks(p, stage, t, chunk, rows.count, block);
  }
}

template <typename T>
__device__ void run_stage(const Program& p, int stage_index, int wave, const Tensors& t, Block<T>& block) {
  if (wave < 0 || wave >= p.steps) return;
  const WaveRows<int> pixels = wave_rows(p.height, p.width, p.slope, wave);
  const int rows = pixels.count * block.samples;
  for (int first = 0; first < rows; first += block.rows) {
    run_rows(p, stage_index, t, {wave, first, min(block.rows, rows - first), pixels}, block);
    int* const offsets = block.offsets;
    block.offsets = block.next_offsets;
    block.next_offsets = offsets;
  }
}

template <typename T>
__device__ void draw(const Program& p, int wave, const Tensors& t, const Block<T>& block) {
  const WaveRows<int> pixels = wave_rows(p.height, p.width, p.slope, wave);
  for (int item = threadIdx.x; item < block.samples * pixels.count * p.image_channels; item += kThreads) {
    const int c = item % p.image_channels, row = item / p.image_channels;
    const int sample = row / pixels.count, i = pixels.top + row % pixels.count, j = wave - p.slope * i;
    T* cache = block.cache + p.zero_size + sample * p.sample_size + c;
    const T logit = cache[slot_of(p, p.n_stages, wave, i)];
    const int64_t plane = static_cast<int64_t>(block.first_sample + sample) * p.image_channels + c;
    const int64_t at = (plane * p.height + i) * p.width + j;
    const bool known = t.known_mask && t.known_mask[at];
    const T pixel = known ? static_cast<const T*>(t.known)[at]
                          : from_float<T>(draw_bernoulli(to_float(static_cast<const T*>(t.noise)[at]), to_float(logit),
                                                         t.temperature));
    cache[slot_of(p, 0, wave, i)] = pixel;
    static_cast<T*>(t.images)[at] = pixel;
    static_cast<T*>(t.logits)[at] = logit;
  }
}

// InShared: the compiler must know that the activations are in shared memory to read them at its rate.
template <typename T, bool InShared>
__global__ void __launch_bounds__(kThreads, 1)
    sample(const __grid_constant__ Program p, const __grid_constant__ Tensors t, const __grid_constant__ Tiling tiling, T* caches) {
  VLAE_SHARED_MEMORY(memory);
  float* sums = reinterpret_cast<float*>(memory);
  T* behind = reinterpret_cast<T*>(sums + kWarps * tiling.rows * kMaxColumns);
  const int size = p.zero_size + tiling.samples * p.sample_size;
  Block<T> block;
  block.sums = sums;
  block.cache = InShared ? behind : caches + blockIdx.x * tiling.global_size;
  block.offsets = reinterpret_cast<int*>(InShared ? behind + size : behind);
  block.next_offsets = block.offsets + (p.most_taps + kRowEntries) * tiling.rows;
  block.rows = tiling.rows;
  block.first_sample = blockIdx.x * tiling.samples;
  block.samples = static_cast<int>(min(static_cast<int64_t>(tiling.samples), t.batch - block.first_sample));

  for (int i = threadIdx.x; i < size; i += kThreads) block.cache[i] = from_float<T>(0);
  for (int step = p.first_step; step < p.steps; ++step) {
    for (int s = 0; s < p.n_stages; ++s) run_stage(p, s, step + p.stages[s].lead, t, block);
    __syncthreads();  // logits
    if (step >= 0) draw(p, step, t, block);
  }
}

template <typename T>
__global__ void condition(const __grid_constant__ Condition c) {
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

// Calls a function with a zero of the type.
template <typename Function>
void with_type(Number number, const Function& function) {
  switch (number) {
    case Number::float32: return function(float{});
    case Number::bfloat16: return function(BFloat16{});
    case Number::float16: return function(Float16{});
  }
}

int attribute(const char* op, cudaDeviceAttr which) {
  int device = 0, value = 0;
  check_cuda(op, "asking for the device", cudaGetDevice(&device));
  check_cuda(op, "asking for a limit of the device", cudaDeviceGetAttribute(&value, which, device));
  return value;
}

}  // namespace

Limits device_limits(const char* op) {
  return {attribute(op, cudaDevAttrMultiProcessorCount), attribute(op, cudaDevAttrMaxSharedMemoryPerBlockOptin)};
}

void run_condition(const char* op, Number number, const Condition& c, void* stream) {
  const int64_t blocks = (c.rows * c.columns + kThreads - 1) / kThreads;
  with_type(number, [&](auto zero) {
    launch(op, condition<decltype(zero)>, static_cast<int>(blocks < 65536 ? blocks : 65536), kThreads, 0, stream, c);
  });
}

void run_program(const char* op, const Program& program, const Tiling& tiling, const Tensors& tensors, void* caches, void* stream) {
  with_type(program.number, [&](auto zero) {
    using T = decltype(zero);
    launch(op, tiling.global_size ? sample<T, false> : sample<T, true>, tiling.blocks, kThreads, tiling.shared_bytes, stream,
           program, tensors, tiling, static_cast<T*>(caches));
  });
}

const char* why_not() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, sample<float, true>);
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace vlae::cuda
