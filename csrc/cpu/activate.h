// Activations of one value and their slopes, on vectors and over stretches of memory.
#pragma once

#include "../activation.h"
#include "vec.h"

namespace vlae::VLAE_ISA {

// Those of layers. NaN for the others: no layer comes with them, and what it does not have costs it no registers.
inline Vec apply(Activation activation, Vec x) {
  switch (activation) {
    case Activation::none: return x;
    case Activation::relu: return relu(x);
    case Activation::elu: return elu(x);
    case Activation::tanh: return tanh(x);
    case Activation::gate:
    case Activation::sigmoid:
    case Activation::softplus:
    case Activation::silu:
    case Activation::gelu:
    case Activation::gelu_tanh:
    case Activation::glu: break;
  }
  return splat(__builtin_nanf(""));
}

// body.operator()<activation>(), for those of layers: a loop whose function is a constant. Nothing for the others.
template <typename Body>
void with_function(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::none: return body.template operator()<Activation::none>();
    case Activation::relu: return body.template operator()<Activation::relu>();
    case Activation::elu: return body.template operator()<Activation::elu>();
    case Activation::tanh: return body.template operator()<Activation::tanh>();
    case Activation::gate:
    case Activation::sigmoid:
    case Activation::softplus:
    case Activation::silu:
    case Activation::gelu:
    case Activation::gelu_tanh:
    case Activation::glu: break;
  }
}

// Those of a stage. NaN for gate and glu, which are of two vectors: no caller comes with them.
inline Vec apply_in_stage(Activation activation, Vec x) {
  switch (activation) {
    case Activation::none:
    case Activation::relu:
    case Activation::elu:
    case Activation::tanh: return apply(activation, x);
    case Activation::sigmoid: return sigmoid(x);
    case Activation::softplus: return softplus(x);
    case Activation::silu: return times_sigmoid(x, x);
    case Activation::gelu: return gelu(x);
    case Activation::gelu_tanh: return gelu_tanh(x);
    case Activation::gate:
    case Activation::glu: break;
  }
  return splat(__builtin_nanf(""));
}

// The gradient before the activation from that of its output. The output alone gives the slope, so that nothing need be
// computed again. NaN passes: who looks at gradients must see it. NaN for the gate, which has a slope of its own, and for those
// that no layer has.
inline Vec times_slope(Activation activation, Vec grad, Vec out) {
  switch (activation) {
    case Activation::none: return grad;
    case Activation::relu: return out > Vec{} ? grad : grad * Vec{};
    case Activation::elu: return out > Vec{} ? grad : grad * (out + splat(1.0f));
    case Activation::tanh: return grad * (splat(1.0f) - out * out);
    case Activation::gate:
    case Activation::sigmoid:
    case Activation::softplus:
    case Activation::silu:
    case Activation::gelu:
    case Activation::gelu_tanh:
    case Activation::glu: break;
  }
  return splat(__builtin_nanf(""));
}

// The gradients of both halves of a gate from that of its output tanh * sigmoid. A sigmoid may be 0: of padding, and of a
// closed gate where it was stored in bfloat16. It is no divisor then, and the first gradient is 0.
inline void times_gate_slope(Vec grad, Vec out, Vec sigmoid, Vec (&slope)[2]) {
  const Vec one = splat(1.0f), tanh = out / (sigmoid > Vec{} ? sigmoid : one), of_tanh = one - tanh * tanh;
  slope[0] = grad * sigmoid * (of_tanh < Vec{} ? Vec{} : of_tanh);  // both were rounded: tanh may pass 1
  slope[1] = grad * out * (one - sigmoid);
}

// Never inlined: one copy of the arithmetic, on whole vectors.
[[gnu::noinline]] inline void activate(Activation activation, int64_t vecs, float* data) {
  for (int64_t v = 0; v < vecs; ++v) store(data + v * kLanes, apply(activation, load(data + v * kLanes)));
}

}  // namespace vlae::VLAE_ISA
