// Pointwise activations over stretches of memory.
#pragma once

#include "../pointwise.h"
#include "vec.h"

namespace vlae::VLAE_ISA {

inline Vec apply(Pointwise function, Vec x) {
  switch (function) {
    case Pointwise::relu: return relu(x);
    case Pointwise::elu: return elu(x);
    case Pointwise::tanh: return tanh(x);
    default: return x;
  }
}

// Never inlined: one copy of the arithmetic, on whole vectors.
[[gnu::noinline]] inline void activate(Pointwise function, int64_t vecs, float* data) {
  for (int64_t v = 0; v < vecs; ++v) store(data + v * kLanes, apply(function, load(data + v * kLanes)));
}

}  // namespace vlae::VLAE_ISA
