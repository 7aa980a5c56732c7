// A whole batch of images in one launch: a thread block draws a tile of samples and stays in the kernel from pixel to pixel.
//
// A step is every stage at the wave it has reached, then the draw. A stage is a matrix product: its rows are samples x pixels
// of the wave, up to 16 or 32 at a time, its columns the P channels before the gate. Stages that do not read each other in a
// step are a section, whose columns the thread block's 8 warps share, so that even one image at a time reads every weight once
// a step, at the rate of L2. The last waves of every activation stay in shared memory from the first pixel to the last.
//
// Where rows read and write is located by all threads at once: of a whole step where its rows are few enough, else of a section
// and one block of rows after the other.
#include "../../pixelcnn_sample/draw.h"
#include "kernel.h"
#include "stage.h"

namespace vlae::cuda::pixelcnn_sample {

namespace {

template <typename Value>
__device__ inline void swap(Value& a, Value& b) {
  const Value before = a;
  a = b;
  b = before;
}

// Rows of the stage of a section that has the most in this step.
template <typename T>
__device__ inline int most_rows_of(int first, int end, const ThreadBlock<T>& block) {
  int rows = 0;
  for (int s = first; s < end; ++s) rows = max(rows, block.reached[s].rows);
  return rows;
}

// Runs a section, stages first .. end - 1, block of rows by block of rows. IsLocated: there is one, and it has been located.
template <bool InShared, bool IsLocated, typename T>
__device__ void run_section(const Program& p, int first, int end, const Tensors& t, ThreadBlock<T>& block, Ahead<T>& ahead,
                            Turn& turn) {
  const Stage &stage = block.stages[first], &last = block.stages[end - 1];
  const bool is_norm = stage.is_norm;
  const int rows = IsLocated ? 0 : most_rows_of(first, end, block);
  int behind = 0;
  do {
    const int row = behind;
    if (!IsLocated) {
      block.offsets = block.table - stage.place * block.rows;
      locate(p, stage.first_entry, last.first_entry + last.n_entries, row, block);
      swap(block.table, block.next_table);
    }
    behind = row + block.rows;
    __syncthreads();  // offsets and activations of the section before are written
    if (is_norm)
      normalise_rows(stage, t, min(block.rows, block.reached[first].rows - row), block);
    else
      run_columns<InShared>(p, first, end, row, t, behind >= rows, block, ahead, turn);
  } while (behind < rows);
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

// InShared: the compiler must know that the activations are in shared memory to read them at its rate. IsWhole: where rows read
// and write is located for a whole step at once.
template <typename T, bool InShared, bool IsWhole>
__global__ void __launch_bounds__(kThreads, 1)
    pixelcnn_sample_sample_kernel(const __grid_constant__ Program p, const __grid_constant__ Tensors t,
                                  const __grid_constant__ Tiling tiling, T* caches) {
  VLAE_SHARED_MEMORY(memory);
  float* biases = reinterpret_cast<float*>(memory);
  Entry* entries = reinterpret_cast<Entry*>(biases + tiling.biases);
  Stage* stages = reinterpret_cast<Stage*>(entries + tiling.entries);
  T* behind = reinterpret_cast<T*>(stages + tiling.stages);
  const int size = p.zero_size + tiling.samples.value * p.sample_size;
  ThreadBlock<T> block;
  Ahead<T> ahead = {};
  block.biases = tiling.biases ? biases : nullptr;
  block.entries = entries;
  block.stages = stages;
  block.cache = InShared ? behind : caches + blockIdx.x * tiling.global_size;
  block.table = reinterpret_cast<int*>(InShared ? behind + size : behind);
  block.next_table = block.table + tiling.places * tiling.rows;
  block.reached = reinterpret_cast<Reached*>(block.next_table + tiling.places * tiling.rows);
  block.next_reached = block.reached + tiling.stages;
  block.rows = hidden(tiling.rows);
  block.row_bits = tiling.row_bits;
  block.first_sample = blockIdx.x * tiling.samples.value;
  block.samples = blockIdx.x + 1 == gridDim.x ? tiling.left : tiling.samples;

  if (tiling.biases) keep_biases<T>(p, t, biases);
  for (int s = threadIdx.x; s < p.n_stages; s += kThreads) {
    stages[s] = p.stages[s];
    list_entries<T>(p, s, entries + p.stages[s].first_entry);
  }
  for (int i = threadIdx.x; i < size; i += kThreads) block.cache[i] = from_float<T>(0);
  reach(p, p.first_step, block.reached, block);  // by the thread that has listed a stage
  __syncthreads();                               // stages and entries are listed, and what the first step reaches
  Turn turn;
  if (const int s = stages[p.n_stages - 1].next[warp_of()]; s < kMaxStages) turn = turn_of(s, -1, t, block);
  for (int step = p.first_step; step < p.steps; ++step) {
    reach(p, step + 1, block.next_reached, block);
    if (IsWhole) {
      block.offsets = block.table;
      locate(p, 0, p.n_entries, 0, block);
      swap(block.table, block.next_table);
    }
    for (int d = 0, s = 0; d <= p.n_draws; ++d) {
      const int until = d < p.n_draws ? p.draws[d].after : p.n_stages;
      for (int end; s < until; s = end) {
        end = block.stages[s].end;
        run_section<InShared, IsWhole>(p, s, end, t, block, ahead, turn);
      }
      if (d == p.n_draws) break;
      __syncthreads();  // the parameters of the wave are written
      if (step >= 0) draw(p, p.draws[d], step, t, block);
    }
    swap(block.reached, block.next_reached);
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
    const auto kernel = tiling.global_size ? pixelcnn_sample_sample_kernel<T, false, false>
                        : tiling.is_whole  ? pixelcnn_sample_sample_kernel<T, true, true>
                                           : pixelcnn_sample_sample_kernel<T, true, false>;
    launch(op, kernel, tiling.blocks, kThreads, tiling.shared_bytes, stream, program, tensors, tiling, static_cast<T*>(caches));
  });
}

const char* why_not() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, pixelcnn_sample_sample_kernel<float, true, true>);
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace vlae::cuda::pixelcnn_sample
