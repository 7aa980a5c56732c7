// The inverse of a flow in one launch: a thread block walks all D dimensions of all its MADEs for a tile of samples.
//
// A block of the walk has two halves. First all warps multiply its rows with the values before it: every live weight is read
// once for the tile, at the rate of L2. Then a warp per sample goes through its events, see push.h.
#include "multiply.h"
#include "pack.h"
#include "push.h"

namespace vlae::cuda::made_inverse {

namespace {

constexpr int kInverseThreads = kLanes * kWarps;
constexpr int kPackThreads = 128;

template <typename T>
__device__ void copy(T* to, const T* from, int count) {
  for (int i = threadIdx.x; i < count; i += kInverseThreads) to[i] = from[i];
}

template <typename T>
struct Shared {
  float* sums;    // [sample][row of the block]
  Event* events;  // the events of the block
  Four<T>* weights;

  __device__ Shared(float4* memory, int samples) {
    sums = reinterpret_cast<float*>(memory);
    events = reinterpret_cast<Event*>(sums + samples * kRows);
    weights = reinterpret_cast<Four<T>*>(events + kRows);
  }

  static int64_t bytes(int samples, int64_t fours) {
    return static_cast<int64_t>(sizeof(float)) * samples * kRows + sizeof(Event) * kRows + sizeof(Four<T>) * fours;
  }
};

template <typename T>
__device__ void push_block(const Walk& walk, const Batch& batch, const Tile<T>& tile, const Block& block, const Block& end,
                           const Shared<T>& shared, LogDet& log_det) {
  const int warp = threadIdx.x / kLanes, events = end.event - block.event;
  Push<T> push(walk, batch, tile, block, end.quad - block.quad, shared.sums + warp * kRows);
  Event next = shared.events[0];
  for (int i = 0; i < events; ++i) {
    const Event event = next;
    next = shared.events[min(i + 1, events - 1)];
    push.run(event, shared.weights + (event.weights - block.weights), log_det);
  }
}

template <typename T, int Samples>
__global__ void __launch_bounds__(kInverseThreads, 1)
    made_inverse_inverse_kernel(const __grid_constant__ Walk walk, const __grid_constant__ Batch batch, const Four<T>* packed,
                                int64_t fours) {
  VLAE_SHARED_MEMORY(memory);
  const Shared<T> shared(memory, Samples);
  const int warp = threadIdx.x / kLanes;
  LogDet log_det;
  for (int step = 0; step < batch.steps; ++step, packed += fours) {
    const Tile<T> tile(batch, Samples, step);
    for (int b = 0; b < walk.n_blocks; ++b) {
      const Block block = walk.blocks[b], end = walk.blocks[b + 1];
      copy(shared.events, walk.events + block.event, end.event - block.event);
      copy(shared.weights, packed + block.weights, block.fours);
      for (int q = block.quad + warp; q < end.quad; q += kWarps)
        multiply<T, Samples>(walk.quads[q], packed, tile, shared.sums + (q - block.quad) * kLaneRows);
      __syncthreads();
      if (warp < tile.samples) push_block(walk, batch, tile, block, end, shared, log_det);
      __syncthreads();
    }
    const bool is_last = step == batch.steps - 1;
    if (is_last && warp < tile.samples && threadIdx.x % kLanes == 0) tile.log_det[warp] = from_float<T>(log_det.sum);
  }
}

// Takes a thread block for each quad, then for each event, of a step; then for those of the next step.
template <typename T>
__global__ void made_inverse_pack_kernel(const __grid_constant__ Walk walk, const __grid_constant__ Layers layers,
                                         Four<T>* packed, int64_t fours) {
  const int n_quads = walk.blocks[walk.n_blocks].quad, per_step = static_cast<int>(gridDim.x) / layers.steps;
  const int step = static_cast<int>(blockIdx.x) / per_step, index = static_cast<int>(blockIdx.x) % per_step;
  packed += step * fours;
  if (index < n_quads) {
    const Quad& quad = walk.quads[index];
    T* out = packed[quad.weights].at;
    for (int64_t i = threadIdx.x; i < kLaneRows * (1 + static_cast<int64_t>(quad.count)); i += kPackThreads)
      out[i] = number_of_quad<T>(walk, layers, step, quad, i);
  } else {
    const Event& event = walk.events[index - n_quads];
    T* out = packed[event.weights].at;
    for (int64_t i = threadIdx.x; i < kLaneRows * event.count * event.fours; i += kPackThreads)
      out[i] = number_of_event<T>(walk, layers, step, event, i);
  }
}

template <typename T, int Samples>
void launch_inverse(const char* op, const Walk& walk, const Counts& counts, const void* packed, const Batch& batch,
                    void* stream) {
  const int64_t blocks = (batch.size + Samples - 1) / Samples;
  launch(op, made_inverse_inverse_kernel<T, Samples>, static_cast<int>(blocks), kInverseThreads,
         static_cast<int>(Shared<T>::bytes(Samples, counts.event_fours)), stream, walk, batch,
         static_cast<const Four<T>*>(packed), counts.fours);
}

}  // namespace

void run_pack(const char* op, Dtype dtype, const Walk& walk, const Counts& counts, const Layers& layers, void* packed,
              void* stream) {
  const int blocks = static_cast<int>(layers.steps * (counts.quads + counts.events));
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    launch(op, made_inverse_pack_kernel<T>, blocks, kPackThreads, 0, stream, walk, layers, static_cast<Four<T>*>(packed),
           counts.fours);
  });
}

// Takes the smallest tile with which all samples have a processor.
void run_inverse(const char* op, Dtype dtype, const Walk& walk, const Counts& counts, const void* packed, const Batch& batch,
                 void* stream) {
  const int64_t processors = device_attribute(op, cudaDevAttrMultiProcessorCount);
  const int64_t share = (batch.size + processors - 1) / processors;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto launch_tiles = share <= 1   ? launch_inverse<T, 1>
                              : share <= 2 ? launch_inverse<T, 2>
                              : share <= 4 ? launch_inverse<T, 4>
                                           : launch_inverse<T, kMaxSamples>;
    launch_tiles(op, walk, counts, packed, batch, stream);
  });
}

}  // namespace vlae::cuda::made_inverse
