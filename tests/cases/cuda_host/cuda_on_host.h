// The part of CUDA that csrc/cuda uses, on the host: its kernels compiled by a C++ compiler and run without a GPU.
//
// A block's threads are fibers of one thread; a barrier, of the block or of a warp, switches to the next fiber. Between two
// barriers a fiber runs alone, from the first to the last or (VLAE_HOST_ORDER=backward) from the last to the first: a barrier
// that is missing gives other results in one of the orders. Shared memory starts as NaN.
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
  dim3(unsigned size = 1) : x(size) {}
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
struct alignas(16) int4 {
  int32_t x, y, z, w;
};
struct alignas(16) uint4 {
  uint32_t x, y, z, w;
};

struct __nv_bfloat16 {
  uint16_t bits;
};
struct __half {
  _Float16 value;
};

inline float __bfloat162float(__nv_bfloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// To the nearest, ties to even.
inline __nv_bfloat16 __float2bfloat16(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if (x != x) return {0x7fff};
  return {static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
}

inline float __half2float(__half x) { return static_cast<float>(x.value); }
inline __half __float2half(float x) { return {static_cast<_Float16>(x)}; }

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

// As far from the value as the hardware's may be by its specification, to one side or the other.
inline float with_error(float value, float most) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return value * (bits % 2 ? 1 + most : 1 - most);
}
inline float __expf(float x) { return with_error(std::exp(x), 0x1p-21f); }
inline float __fdividef(float x, float y) { return std::fabs(y) > 0x1p126f ? x * 0 : with_error(x / y, 0x1p-22f); }

inline float normcdff(float x) { return static_cast<float>(std::erfc(-x / std::sqrt(2.0)) / 2); }

using std::max;
using std::min;

namespace vlae::host {

constexpr size_t kStackBytes = 64 << 10;
constexpr size_t kLanes = 32;

enum class At { start, matrix_product, matrix_load, shuffle, block_barrier, end };

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  At at = At::start;
};

// A lane's part of a matrix instruction.
struct Operands {
  float a[8], b[4];
  float* d;
};

// A lane's part of a shuffle.
struct Shuffle {
  uint32_t mine, theirs;
  size_t lane;  // whose
};

// A lane's part of a load of matrices: the row that it names, what it gets.
struct Load {
  const uint32_t* row;
  uint32_t* to;
};

struct Block {
  std::vector<Fiber> fibers;
  std::unique_ptr<float4[]> shared;
  size_t shared_bytes = 0;
  std::function<void()> body;
  ucontext_t scheduler;
  size_t current = 0;
  Operands operands[kLanes];  // of the warp that runs
  Shuffle shuffles[kLanes];
  Load loads[kLanes];
};

inline Block* block = nullptr;

inline void stop(At at) {
  Fiber& fiber = block->fibers[block->current];
  fiber.at = at;
  swapcontext(&fiber.context, &block->scheduler);
}

inline void run_fiber() {
  block->body();
  stop(At::end);
}

// Fibers first .. first + count - 1 as far as their next barrier; all must get to the same.
inline At run_some(size_t first, size_t count, bool backward) {
  for (size_t i = 0; i < count; ++i) {
    block->current = first + (backward ? count - 1 - i : i);
    threadIdx = dim3(static_cast<unsigned>(block->current));
    swapcontext(&block->scheduler, &block->fibers[block->current].context);
  }
  const At at = block->fibers[first].at;
  for (size_t i = first; i < first + count; ++i)
    if (block->fibers[i].at != at) throw std::runtime_error("cuda on host: threads stopped at different barriers");
  return at;
}

// mma.m16n8k16: element [row, k] of a is in lane row % 8 * 4 + k % 8 / 2, [k, column] of b in lane column * 4 + k % 8 / 2;
// a lane has elements [lane / 4 (+ 8), lane % 4 * 2 (+ 1)] of d.
inline void multiply_operands() {
  for (int lane = 0; lane < static_cast<int>(kLanes); ++lane)
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float sum = block->operands[lane].d[i];
      for (int k = 0; k < 16; ++k) {
        const Operands& left = block->operands[row % 8 * 4 + k % 8 / 2];
        const Operands& right = block->operands[column * 4 + k % 8 / 2];
        sum += left.a[(k / 8 * 2 + row / 8) * 2 + k % 2] * right.b[k / 8 * 2 + k % 2];
      }
      block->operands[lane].d[i] = sum;
    }
}

inline void exchange() {
  for (Shuffle& shuffle : block->shuffles) shuffle.theirs = block->shuffles[shuffle.lane % kLanes].mine;
}

// ldmatrix.x4: lane l names row l % 8 of matrix l / 8, and gets numbers l % 4 * 2 and the next of row l / 4 of each.
inline void load_rows() {
  for (size_t lane = 0; lane < kLanes; ++lane)
    for (size_t i = 0; i < 4; ++i) block->loads[lane].to[i] = block->loads[8 * i + lane / 4].row[lane % 4];
}

// A warp as far as its next barrier of the block. It waits for its matrix instructions and shuffles alone.
inline At run_warp(size_t first, bool backward) {
  for (;;) {
    const At at = run_some(first, kLanes, backward);
    if (at == At::matrix_product)
      multiply_operands();
    else if (at == At::matrix_load)
      load_rows();
    else if (at == At::shuffle)
      exchange();
    else
      return at;
  }
}

// A whole block as far as its next barrier.
inline At run_to_barrier(bool backward) {
  const size_t warps = block->fibers.size() / kLanes;
  for (size_t i = 0; i < warps; ++i) run_warp((backward ? warps - 1 - i : i) * kLanes, backward);
  for (const Fiber& fiber : block->fibers)
    if (fiber.at != block->fibers[0].at)
      throw std::runtime_error("cuda on host: some warps ended before a barrier of the others");
  return block->fibers[0].at;
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
  b.shared_bytes = shared_bytes;
  b.shared = std::make_unique<float4[]>((shared_bytes + sizeof(float4) - 1) / sizeof(float4));
  std::fill_n(reinterpret_cast<float*>(b.shared.get()), shared_bytes / sizeof(float), std::numeric_limits<float>::quiet_NaN());
  b.fibers.resize(threads);
  block = &b;
  for (Fiber& fiber : b.fibers) start(fiber);
  const char* order = std::getenv("VLAE_HOST_ORDER");
  while (run_to_barrier(order && !std::strcmp(order, "backward")) != At::end) {
  }
  block = nullptr;
}

inline float number(uint16_t bits, __nv_bfloat16) { return __bfloat162float({bits}); }
inline float number(uint16_t bits, __half) {
  __half x;
  std::memcpy(&x, &bits, sizeof x);
  return __half2float(x);
}

template <typename T>
void multiply_matrices(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Operands& mine = block->operands[threadIdx.x % kLanes];
  const auto half_of = [](uint32_t two, int index) { return number(static_cast<uint16_t>(two >> index * 16), T{}); };
  for (int i = 0; i < 8; ++i) mine.a[i] = half_of(a[i / 2], i % 2);
  for (int i = 0; i < 4; ++i) mine.b[i] = half_of(i < 2 ? b0 : b1, i % 2);
  mine.d = d;
  stop(At::matrix_product);
}

inline void load_matrices(uint32_t (&a)[4], const void* row) {
  const char *shared = reinterpret_cast<const char*>(block->shared.get()), *at = static_cast<const char*>(row);
  if (at < shared || at + 16 > shared + block->shared_bytes || (at - shared) % 16 != 0)
    throw std::runtime_error("cuda on host: a matrix is loaded from what is no 16 bytes of shared memory");
  block->loads[threadIdx.x % kLanes] = {static_cast<const uint32_t*>(row), a};
  stop(At::matrix_load);
}

template <typename T>
T shuffle(T mine, size_t lane) {
  static_assert(sizeof(T) == sizeof(uint32_t));
  Shuffle& own = block->shuffles[threadIdx.x % kLanes];
  own.lane = lane;
  std::memcpy(&own.mine, &mine, sizeof mine);
  stop(At::shuffle);
  std::memcpy(&mine, &own.theirs, sizeof mine);
  return mine;
}

inline float tanh_fast(float x) { return with_error(std::tanh(x), 0x1p-11f); }

inline int setting(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

}  // namespace vlae::host

inline void __syncthreads() { vlae::host::stop(vlae::host::At::block_barrier); }

template <typename T>
T __shfl_sync(unsigned, T value, int lane) {
  return vlae::host::shuffle(value, static_cast<size_t>(lane));
}
inline float __shfl_xor_sync(unsigned, float value, int bits) {
  return vlae::host::shuffle(value, threadIdx.x % vlae::host::kLanes ^ static_cast<size_t>(bits));
}

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
