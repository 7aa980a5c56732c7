// The part of CUDA that csrc/cuda uses, on the host: its kernels compiled by a C++ compiler and run without a GPU.
// A block's threads are fibers, cf. fibers.h.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <source_location>
#include <stdexcept>

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
struct alignas(8) uint2 {
  unsigned x, y;
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
inline float __fdividef(float x, float y) { return std::fabs(y) > 0x1p126f ? x * 0 : with_error(x / y, 0x1p-22f); }

inline float normcdff(float x) { return static_cast<float>(std::erfc(-x / std::sqrt(2.0)) / 2); }

using std::max;
using std::min;

#include "fibers.h"

namespace vlae::host {

inline float number(uint16_t bits, __nv_bfloat16) { return __bfloat162float({bits}); }
inline float number(uint16_t bits, __half) {
  __half x;
  std::memcpy(&x, &bits, sizeof x);
  return __half2float(x);
}

template <typename T>
VLAE_UNSEEN void multiply_matrices(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  Operands& mine = block->operands[threadIdx.x % kLanes];
  const auto half_of = [](uint32_t two, int index) { return number(static_cast<uint16_t>(two >> index * 16), T{}); };
  for (int i = 0; i < 8; ++i) mine.a[i] = half_of(a[i / 2], i % 2);
  for (int i = 0; i < 4; ++i) mine.b[i] = half_of(i < 2 ? b0 : b1, i % 2);
  mine.d = d;
  stop(At::matrix_product);
}

// Three instructions in turn, for which a warp stops once.
VLAE_UNSEEN inline void multiply_tf32(const std::array<Tf32, 3>& three) {
  block->tf32[threadIdx.x % kLanes] = three;
  stop(At::tf32_product);
}

VLAE_UNSEEN inline void wait_for_rows(const Load& mine) {
  block->loads[threadIdx.x % kLanes] = mine;
  stop(At::matrix_load);
}

inline void load_matrices(uint32_t (&a)[4], const void* row) {
  const char *shared = reinterpret_cast<const char*>(block->shared.get()), *at = static_cast<const char*>(row);
  if (at < shared || at + 16 > shared + block->shared_bytes || (at - shared) % 16 != 0)
    throw std::runtime_error("cuda on host: a matrix is loaded from what is no 16 bytes of shared memory");
  const uint32_t* from = static_cast<const uint32_t*>(row);  // read here, as an access of this thread
  wait_for_rows({{from[0], from[1], from[2], from[3]}, a});
}

template <typename T>
VLAE_UNSEEN T shuffle(T mine, size_t lane) {
  static_assert(sizeof(T) == sizeof(uint32_t));
  Shuffle& own = block->shuffles[threadIdx.x % kLanes];
  own = {std::bit_cast<uint32_t>(mine), 0, lane};
  stop(At::shuffle);
  return std::bit_cast<T>(own.theirs);
}

inline float tanh_fast(float x) { return with_error(std::tanh(x), 0x1p-11f); }
inline float exp2_fast(float x) {
  const float y = std::exp2(x);
  return y < 0x1p-126f ? 0 : with_error(y, 0x1p-22f);
}

inline int setting(const char* name, int otherwise) {
  const char* value = std::getenv(name);
  return value ? std::atoi(value) : otherwise;
}

}  // namespace vlae::host

inline void __syncthreads(const std::source_location& where = std::source_location::current()) {
  vlae::host::wait_for_block(where);
}

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
