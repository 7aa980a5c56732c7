// An activation by itself, element by element. Plain data: every instruction set shares it.
#pragma once

#include <cstdint>

#include "../../activation.h"

namespace vlae::pointwise {

struct Elements {
  const float* x;
  float* out;
  int64_t count;
  Activation activation;  // of one value
};

struct Kernels {
  void (*activate)(const Elements&) noexcept;
};

}  // namespace vlae::pointwise
