// An activation by itself, for one instruction set. A value has the same bits wherever it stands: every one is a lane of a
// whole vector.
#include "kernels.h"
#include "../activate.h"

namespace vlae::pointwise::VLAE_ISA {

using namespace vlae::VLAE_ISA;

namespace {

void activate(const Elements& e) noexcept {
  int64_t i = 0;
  for (; i + kLanes <= e.count; i += kLanes) store(e.out + i, apply_in_stage(e.activation, load(e.x + i)));
  if (i < e.count) store_some(e.out + i, apply_in_stage(e.activation, load_some(e.x + i, e.count - i)), e.count - i);
}

}  // namespace

Kernels kernels() { return {activate}; }

}  // namespace vlae::pointwise::VLAE_ISA
