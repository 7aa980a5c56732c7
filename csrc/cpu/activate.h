// Activations of one value over stretches of memory.
#pragma once

#include "../activation.h"
#include "vec.h"

namespace vlae::VLAE_ISA {

// NaN for the gate, which is of two vectors: no caller comes with it.
inline Vec apply(Activation activation, Vec x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return relu(x);
    case Activation::elu: return elu(x);
    case Activation::tanh: return tanh(x);
    case Activation::gate: break;
  }
  return splat(__builtin_nanf(""));
}

// Never inlined: one copy of the arithmetic, on whole vectors.
[[gnu::noinline]] inline void activate(Activation activation, int64_t vecs, float* data) {
  for (int64_t v = 0; v < vecs; ++v) store(data + v * kLanes, apply(activation, load(data + v * kLanes)));
}

}  // namespace vlae::VLAE_ISA
