// A whole batch of images in one launch: a thread block draws a tile of samples and stays in the kernel from pixel to pixel.
//
// A step is every stage at the wave it has reached, then the draw. A stage is a matrix product: its rows are samples x pixels
// of the wave, up to 16 or 32 at a time, its columns the P channels before the gate. Stages that do not read each other in a
// step are a section, whose columns the thread block's 8 warps share, so that even one image at a time reads every weight once
// a step, at the rate of L2. The last waves of every activation stay in shared memory from the first pixel to the last.
//
// Where rows read and write is located by all threads at once, of a section and one block of rows after the other; or, where a
// step's rows are few enough, of a whole step by the warps that have nothing else to do before the draw of the step before.
#include "drawing.h"
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

__device__ inline Threads all_threads() { return {static_cast<int>(threadIdx.x), kThreads}; }

// Rows of the stage of a section that has the most in this step.
template <typename T>
__device__ inline int most_rows_of(int first, int end, const ThreadBlock<T>& block) {
  int rows = 0;
  for (int s = first; s < end; ++s) rows = max(rows, block.reached[s].rows);
  return rows;
}

// Runs the section whose first stage is `first`, block of rows by block of rows; returns its end.
template <bool InShared, typename T>
__device__ int run_section(const Program& p, int section, int first, const Tensors& t, ThreadBlock<T>& block, Ahead<T>& ahead,
                           Turn& turn) {
  const Stage& stage = block.stages[first];
  const int end = stage.end, rows = most_rows_of(first, end, block);
  const Stage& last = block.stages[end - 1];
  int behind = 0;
  do {
    const int row = behind;
    block.offsets = block.table - stage.place;
    locate(p, stage.first_entry, last.first_entry + last.n_entries, row, block.reached, block.offsets, all_threads(), block);
    swap(block.table, block.next_table);
    behind = row + block.rows;
    __syncthreads();  // offsets and activations of the section before are written
    run_turns<InShared>(p, section, row, t, behind >= rows, block, ahead, turn);
  } while (behind < rows);
  return end;
}

// InShared: the compiler must know that the activations are in shared memory to read them at its rate. IsWhole: where rows read
// and write is located for a whole step at once.
template <typename T, bool InShared, bool IsWhole>
__global__ void __launch_bounds__(kThreads, 1)
    pixelcnn_sample_sample_kernel(const __grid_constant__ Program p, const __grid_constant__ Tensors t,
                                  const __grid_constant__ Tiling tiling, T* caches) {
  VLAE_SHARED_MEMORY(memory);
  Entry* entries = reinterpret_cast<Entry*>(memory);
  Stage* stages = reinterpret_cast<Stage*>(entries + tiling.entries);
  T* behind = reinterpret_cast<T*>(stages + tiling.stages);
  const int size = p.zero_size + tiling.samples.value * p.sample_size;
  ThreadBlock<T> block;
  Ahead<T> ahead = {};
  block.entries = entries;
  block.stages = stages;
  block.cache = InShared ? behind : caches + blockIdx.x * tiling.global_size;
  block.table = reinterpret_cast<int*>(InShared ? behind + size : behind);
  block.next_table = block.table + tiling.places * tiling.rows;
  block.reached = reinterpret_cast<Reached*>(block.next_table + tiling.places * tiling.rows) + 1;
  Reached *next_reached = block.reached + tiling.stages + 1, *last_reached = next_reached + tiling.stages + 1;
  int* kept = reinterpret_cast<int*>(last_reached + tiling.stages);  // constants would be loaded again and again
  float* conditions = reinterpret_cast<float*>(kept + 4);
  block.conditions = InShared && tiling.conditions ? conditions : nullptr;
  block.row_bits = tiling.row_bits;
  block.first_sample = blockIdx.x * tiling.samples.value;
  block.samples = blockIdx.x + 1 == gridDim.x ? tiling.left : tiling.samples;

  for (int s = threadIdx.x; s < p.n_stages; s += kThreads) {
    stages[s] = p.stages[s];
    stages[s].place *= tiling.rows, stages[s].places *= tiling.rows;  // where they are in a table
    list_entries<T>(p, s, entries + p.stages[s].first_entry);
  }
  if (threadIdx.x == 0) kept[0] = tiling.rows, kept[1] = p.n_draws, kept[2] = p.busy;
  for (int i = threadIdx.x; i < size; i += kThreads) block.cache[i] = from_float<T>(0);
  for (int i = threadIdx.x; tiling.conditions && i < block.samples * p.cond_columns; i += kThreads)
    conditions[i] = t.cond[static_cast<int64_t>(block.first_sample) * p.cond_columns + i];
  __syncthreads();  // stages and entries are listed
  reach(p, p.first_step, block.reached, all_threads(), block);
  reach(p, p.first_step + 1, next_reached, all_threads(), block);
  __syncthreads();  // what the first step reaches
  block.rows = kept[0];
  const int n_draws = kept[1], busy = kept[2];
  if (IsWhole) locate(p, 0, p.n_entries, 0, block.reached, block.table, all_threads(), block);
  Turn turn = {};
  turn.head.section = kMaxStages;
  if (const int s = stages[p.n_stages - 1].next[warp_of()]; s != kMaxStages) {
    turn = turn_of(s & (kBehind - 1), kFirst, true, block);
    load_next(ahead, t.packed, columns_of<T>(turn));
  }
  for (int step = p.first_step; step < p.steps; ++step) {
    if (IsWhole) block.offsets = block.table;
    for (int d = 0, s = 0, section = 0; d <= n_draws; ++d) {
      const int until = d < n_draws ? p.draws[d].sections : p.n_sections;
      for (; section < until; ++section) {
        if constexpr (IsWhole) {
          __syncthreads();  // the activations of the section before are written, or where rows read and write in this step
          run_turns<InShared>(p, section, 0, t, true, block, ahead, turn);
        } else {
          s = run_section<InShared>(p, section, s, t, block, ahead, turn);
        }
      }
      if (d == n_draws) break;
      if (d + 1 == n_draws && warp_of() >= busy) {
        const Threads idle = {static_cast<int>(threadIdx.x) - 32 * busy, kThreads - 32 * busy};
        reach(p, step + 2, last_reached, idle, block);
        if (IsWhole) locate(p, 0, p.n_entries, 0, next_reached, block.next_table, idle, block);
      }
      Drawing<T> drawing(p, p.draws[d], t, block);
      __syncthreads();  // the parameters of the wave are written
      drawing.run();
    }
    if (IsWhole) swap(block.table, block.next_table);
    swap(block.reached, next_reached);
    swap(next_reached, last_reached);
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
