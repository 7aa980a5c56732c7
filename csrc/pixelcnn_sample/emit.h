// The distribution that a pixel is drawn from, given the parameters of its channels; see vlae_fast/plan.py. Plain data
// alone: the CPU's files of one instruction set include this.
#pragma once

#include <cstdint>

namespace vlae {

enum class EmitKind : int32_t { bernoulli, categorical, logistic_mixture, affine };

struct Emit {
  EmitKind kind;
  int32_t levels;      // of a pixel, 0 where it is continuous
  int32_t components;  // of a mixture
};

}  // namespace vlae
