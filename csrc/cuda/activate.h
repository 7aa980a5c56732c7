// Activations of one number in a kernel.
#pragma once

#include "../activation.h"
#include "device.h"

namespace vlae::cuda {

__device__ inline float relu(float x) { return x < 0 ? 0.0f : x; }  // NaN passes
__device__ inline float elu(float x) { return x > 0 ? x : expm1f(x); }

// NaN for the gate, which is of two numbers: no caller comes with it.
__device__ inline float activate(Activation activation, float x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return relu(x);
    case Activation::elu: return elu(x);
    case Activation::tanh: return tanhf(x);
    case Activation::gate: break;
  }
  return nanf("");
}

}  // namespace vlae::cuda
