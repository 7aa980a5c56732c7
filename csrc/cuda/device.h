// CUDA, or the tests' emulation of it on the host, which compiles the same sources with a C++ compiler.
#pragma once

#include <bit>
#include <cstdint>
#include <stdexcept>
#include <string>

#if defined(__CUDACC__)
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define VLAE_SHARED_MEMORY(name) extern __shared__ float4 name[]
#else
#include "cuda_on_host.h"
#endif

namespace vlae::cuda {

inline void check_cuda(const char* op, const char* doing, cudaError_t error) {
  if (error == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // clears it: the next caller to ask would be told of it
  throw std::runtime_error(std::string(op) + ": " + doing + " failed: " + cudaGetErrorString(error));
}

__device__ inline uint32_t bits_of(float number) {
#if defined(__CUDACC__)
  return __float_as_uint(number);
#else
  return std::bit_cast<uint32_t>(number);
#endif
}

__device__ inline float float_of(uint32_t bits) {
#if defined(__CUDACC__)
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

// Loads from memory that nobody writes, or leaves `to` as it is: without a branch.
__device__ inline void load_if(uint4& to, const uint4* from, bool is_any) {
#if defined(__CUDACC__)
  asm volatile("{ .reg .pred any; setp.ne.b32 any, %5, 0; @any ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4]; }"
               : "+r"(to.x), "+r"(to.y), "+r"(to.z), "+r"(to.w)
               : "l"(from), "r"(static_cast<int>(is_any)));
#else
  if (is_any) to = *from;
#endif
}

__device__ inline void load_if(uint2& to, const uint2* from, bool is_any) {
#if defined(__CUDACC__)
  asm volatile("{ .reg .pred any; setp.ne.b32 any, %3, 0; @any ld.global.nc.v2.u32 {%0, %1}, [%2]; }"
               : "+r"(to.x), "+r"(to.y)
               : "l"(from), "r"(static_cast<int>(is_any)));
#else
  if (is_any) to = *from;
#endif
}

// The same from a place in shared memory, which may be anything where nothing is to be loaded.
__device__ inline void load_near_if(float2& to, const float* from, uint32_t place, bool is_any) {
#if defined(__CUDACC__)
  asm volatile("{ .reg .pred any; setp.ne.b32 any, %3, 0; @any ld.shared.v2.f32 {%0, %1}, [%2]; }"
               : "+f"(to.x), "+f"(to.y)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from)) + place * static_cast<uint32_t>(sizeof(float))),
                 "r"(static_cast<int>(is_any)));
#else
  if (is_any) to = *reinterpret_cast<const float2*>(from + place);
#endif
}

// What is in shared memory, loaded here and not where it is used.
__device__ inline int4 load_early(const int4* from) {
#if defined(__CUDACC__)
  int4 to;
  asm volatile("ld.volatile.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from))));
  return to;
#else
  return *from;
#endif
}

// A limit of the current device.
inline int device_attribute(const char* op, cudaDeviceAttr which) {
  int device = 0, value = 0;
  check_cuda(op, "asking for the device", cudaGetDevice(&device));
  check_cuda(op, "asking for a limit of the device", cudaDeviceGetAttribute(&value, which, device));
  return value;
}

// Launches `blocks` x `threads` in one dimension on a stream, with `shared_bytes` of dynamic shared memory.
template <typename... Args>
void launch(const char* op, void (*kernel)(Args...), int blocks, int threads, int shared_bytes, void* stream,
            const Args&... args) {
  check_cuda(op, "asking for shared memory",
             cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes));
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  check_cuda(op, "launching the kernel", cudaLaunchKernelEx(&config, kernel, args...));
}

}  // namespace vlae::cuda
