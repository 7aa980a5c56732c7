// Activations of one number in a kernel.
#pragma once

#include "../activation.h"
#include "device.h"

namespace vlae::cuda {

__device__ inline float relu(float x) { return x < 0 ? 0.0f : x; }  // NaN passes
__device__ inline float elu(float x) { return x > 0 ? x : expm1f(x); }

// Those of layers. NaN for the others: no layer comes with them, and what it does not have costs it no registers.
__device__ inline float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return relu(x);
    case Activation::elu: return elu(x);
    case Activation::tanh: return tanhf(x);
    case Activation::gate:
    case Activation::sigmoid:
    case Activation::softplus:
    case Activation::silu:
    case Activation::gelu:
    case Activation::gelu_tanh:
    case Activation::glu: break;
  }
  return nanf("");
}

__device__ inline float times_sigmoid(float a, float b) { return a / (1.0f + expf(-b)); }

// Within 2^-11 of the value, as the hardware has it.
__device__ inline float tanh_fast(float x) {
#if defined(__CUDACC__)
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return vlae::host::tanh_fast(x);
#endif
}

// 2^x within 2^-22 of it; 0 where that is below the least normal number.
__device__ inline float exp2_fast(float x) {
#if defined(__CUDACC__)
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#else
  return vlae::host::exp2_fast(x);
#endif
}

__device__ inline float gelu_tanh(float x) { return times_sigmoid(x, x * (0.0713548163f * x * x + 1.5957691216f)); }

// Those of a stage. NaN for gate and glu, which are of two numbers: no caller comes with them.
__device__ inline float activate_in_stage(Activation activation, float x) {
  switch (activation) {
    case Activation::none:
    case Activation::relu:
    case Activation::elu:
    case Activation::tanh: return activate(activation, x);
    case Activation::sigmoid: return times_sigmoid(1.0f, x);
    case Activation::softplus: return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x)));
    case Activation::silu: return times_sigmoid(x, x);
    case Activation::gelu: return x * normcdff(x);
    case Activation::gelu_tanh: return gelu_tanh(x);
    case Activation::gate:
    case Activation::glu: break;
  }
  return nanf("");
}

// For 16-bit dtypes: errors of these, 2^-11 of tanh and less of the others, are below the rounding.
__device__ inline float times_sigmoid_fast(float a, float b) { return __fdividef(a, 1.0f + exp2_fast(-1.4426950409f * b)); }

// Those that are short enough to be there once for every output of a lane; NaN for the others, cf. is_short.
__device__ inline float activate_fast(Activation activation, float x) {
  switch (activation) {
    case Activation::none:
    case Activation::relu:
    case Activation::elu: return activate(activation, x);
    case Activation::tanh: return tanh_fast(x);
    case Activation::sigmoid: return times_sigmoid_fast(1.0f, x);
    case Activation::silu: return times_sigmoid_fast(x, x);
    case Activation::softplus:
    case Activation::gelu:
    case Activation::gelu_tanh:
    case Activation::gate:
    case Activation::glu: break;
  }
  return nanf("");
}

__device__ inline bool is_short(Activation activation) {
  return activation != Activation::softplus && activation != Activation::gelu && activation != Activation::gelu_tanh;
}

}  // namespace vlae::cuda
