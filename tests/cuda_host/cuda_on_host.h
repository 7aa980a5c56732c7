// The part of CUDA that csrc/cuda uses, on the host: its kernels compiled by a C++ compiler and run without a GPU.
//
// A block's threads are fibers of one thread; a barrier switches to the next fiber. Between two barriers a fiber runs alone,
// from the first to the last or (VLAE_HOST_ORDER=backward) from the last to the first: a barrier that is missing gives
// other results in one of the orders. Shared memory starts as NaN and is exactly as large as was asked for.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <stdexcept>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __grid_constant__
#define __launch_bounds__(...)
#define VLAE_SHARED_MEMORY(name) float4* const name = vlae::host::block->shared.get()

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  dim3(unsigned x = 1) : x(x) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

using std::max;
using std::min;

namespace vlae::host {

constexpr size_t kStackBytes = 64 << 10;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done = false;
};

struct Block {
  std::vector<Fiber> fibers;
  std::unique_ptr<float4[]> shared;
  std::function<void()> body;
  ucontext_t scheduler;
  size_t current = 0, waiting = 0;  // at the barrier
};

inline Block* block = nullptr;

inline void run_fiber() {
  block->body();
  block->fibers[block->current].done = true;
  swapcontext(&block->fibers[block->current].context, &block->scheduler);
}

inline void wait() {
  ++block->waiting;
  swapcontext(&block->fibers[block->current].context, &block->scheduler);
}

// Every fiber as far as the next barrier, or to its end; all must get to the same.
inline bool run_to_barrier(bool backward) {
  const size_t n = block->fibers.size();
  block->waiting = 0;
  size_t done = 0;
  for (size_t i = 0; i < n; ++i) {
    block->current = backward ? n - 1 - i : i;
    threadIdx = dim3(static_cast<unsigned>(block->current));
    swapcontext(&block->scheduler, &block->fibers[block->current].context);
    done += block->fibers[block->current].done;
  }
  if (block->waiting + done != n || (block->waiting > 0 && done > 0))
    throw std::runtime_error("cuda on host: some threads of a block ended before a barrier of the others");
  return block->waiting > 0;
}

inline void start(Fiber& fiber) {
  fiber.stack.reset(new char[kStackBytes]);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber.context, run_fiber, 0);
}

inline void run_block(unsigned threads, size_t shared_bytes, const std::function<void()>& body) {
  Block b;
  b.body = body;
  b.shared = std::make_unique<float4[]>((shared_bytes + sizeof(float4) - 1) / sizeof(float4));
  std::fill_n(reinterpret_cast<float*>(b.shared.get()), shared_bytes / sizeof(float), std::numeric_limits<float>::quiet_NaN());
  b.fibers.resize(threads);
  block = &b;
  for (Fiber& fiber : b.fibers) start(fiber);
  const char* order = std::getenv("VLAE_HOST_ORDER");
  while (run_to_barrier(order && !std::strcmp(order, "backward"))) {
  }
  block = nullptr;
}

inline int setting(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

}  // namespace vlae::host

inline void __syncthreads() { vlae::host::wait(); }

template <typename T>
T __ldg(const T* from) {
  return *from;
}

// The runtime, as far as it is called.
enum cudaError_t { cudaSuccess, cudaErrorInvalidValue };
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize };
enum cudaDeviceAttr { cudaDevAttrMultiProcessorCount, cudaDevAttrMaxSharedMemoryPerBlockOptin };
using cudaStream_t = void*;
struct cudaFuncAttributes {};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
};

inline const char* cudaGetErrorString(cudaError_t) { return "invalid value"; }

inline cudaError_t cudaGetLastError() { return cudaSuccess; }

inline cudaError_t cudaGetDevice(int* device) {
  *device = 0;
  return cudaSuccess;
}

inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr which, int) {
  *value = which == cudaDevAttrMultiProcessorCount ? vlae::host::setting("VLAE_HOST_PROCESSORS", 132)
                                                  : vlae::host::setting("VLAE_HOST_SHARED_BYTES", 227 << 10);
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncGetAttributes(cudaFuncAttributes*, Kernel) {
  return cudaSuccess;
}

template <typename Kernel>
cudaError_t cudaFuncSetAttribute(Kernel, cudaFuncAttribute, int bytes) {
  return bytes <= vlae::host::setting("VLAE_HOST_SHARED_BYTES", 227 << 10) ? cudaSuccess : cudaErrorInvalidValue;
}

template <typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Args...), const Args&... args) {
  gridDim = config->gridDim;
  blockDim = config->blockDim;
  for (blockIdx = dim3(0); blockIdx.x < gridDim.x; ++blockIdx.x)
    vlae::host::run_block(blockDim.x, config->dynamicSmemBytes, [&] { kernel(args...); });
  return cudaSuccess;
}
