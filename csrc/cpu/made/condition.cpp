// The condition of a MADE's first layer, added before its activation, for one instruction set.
#include "../activate.h"
#include "kernels.h"

namespace vlae::made::VLAE_ISA {

using namespace vlae::VLAE_ISA;

namespace {

void add_condition(const Condition& c) noexcept {
  for (int64_t r = 0; r < c.rows; ++r)
    for (int64_t i = 0; i < c.columns; i += kLanes) {
      float* out = c.out + r * c.stride + i;
      const int64_t count = least(kLanes, c.columns - i);
      store_some(out, apply(c.activation, load_some(out, count) + load_some(c.cond + r * c.columns + i, count)), count);
    }
}

}  // namespace

Kernels kernels() { return {add_condition}; }

}  // namespace vlae::made::VLAE_ISA
