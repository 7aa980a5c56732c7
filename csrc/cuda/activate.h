// Activations of one number in a kernel.
#pragma once

#include "device.h"

namespace vlae::cuda {

__device__ inline float relu(float x) { return x < 0 ? 0.0f : x; }  // NaN passes
__device__ inline float elu(float x) { return x > 0 ? x : expm1f(x); }

}  // namespace vlae::cuda
