// What the products of a masked linear layer lack for a MADE. Plain data: every instruction set shares it.
#pragma once

#include <cstdint>

#include "../../activation.h"

namespace vlae::made {

// out[r, c] = act(out[r, c] + cond[r, c]), rows of out `stride` floats apart and those of cond `columns`.
struct Condition {
  const float* cond;
  float* out;
  int64_t stride, rows, columns;
  Activation activation;
};

struct Kernels {
  void (*add_condition)(const Condition&) noexcept;
};

}  // namespace vlae::made
