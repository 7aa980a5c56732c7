// The C++ type of each Dtype, and its conversions from and to float.
#pragma once

#include <cstring>

#include "device.h"
#include "dtype.h"

namespace vlae::cuda {

using BFloat16 = __nv_bfloat16;
using Float16 = __half;

__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(BFloat16 x) { return __bfloat162float(x); }
__device__ inline float to_float(Float16 x) { return __half2float(x); }

template <typename T>
constexpr Dtype dtype_of = Dtype::float32;
template <>
constexpr Dtype dtype_of<BFloat16> = Dtype::bfloat16;
template <>
constexpr Dtype dtype_of<Float16> = Dtype::float16;

template <typename T>
__device__ T from_float(float x);
template <>
__device__ inline float from_float<float>(float x) {
  return x;
}
template <>
__device__ inline BFloat16 from_float<BFloat16>(float x) {
  return __float2bfloat16(x);
}
template <>
__device__ inline Float16 from_float<Float16>(float x) {
  return __float2half(x);
}

// One of two 16-bit numbers that lie in a word, the lower first.
template <typename T>
__device__ inline float half_at(uint32_t word, int which) {
  static_assert(sizeof(T) == sizeof(uint16_t));
  const uint16_t bits = static_cast<uint16_t>(word >> 16 * which);
  T number;
  memcpy(&number, &bits, sizeof(T));
  return to_float(number);
}

// Two neighbours, the first of which is in an even place.
__device__ inline float2 two_from(const float* from) { return *reinterpret_cast<const float2*>(from); }
template <typename T>
__device__ inline float2 two_from(const T* from) {
  uint32_t word;
  memcpy(&word, __builtin_assume_aligned(from, sizeof word), sizeof word);
  return {half_at<T>(word, 0), half_at<T>(word, 1)};
}

// Calls `function` with a zero of the C++ type of `dtype`.
template <typename Function>
void with_type(Dtype dtype, const Function& function) {
  switch (dtype) {
    case Dtype::float32: return function(float{});
    case Dtype::bfloat16: return function(BFloat16{});
    case Dtype::float16: return function(Float16{});
  }
}

}  // namespace vlae::cuda
