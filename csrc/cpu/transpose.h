// A square of kLanes x kLanes floats, transposed in registers: log2(kLanes) rounds of two-source shuffles.
#pragma once

#include <utility>

#include "vec.h"

namespace vlae::VLAE_ISA {

// Lanes of (a, b): `low` swaps the upper blocks of Step lanes of a for the lower ones of b; `high` is what is left.
template <int Step, int... Lane>
inline void exchange(Vec& a, Vec& b, std::integer_sequence<int, Lane...>) {
#if defined(__clang__)
  const Vec low = __builtin_shufflevector(a, b, (Lane & Step ? kLanes + Lane - Step : Lane)...);
  const Vec high = __builtin_shufflevector(a, b, (Lane & Step ? kLanes + Lane : Lane + Step)...);
#else
  const Vec low = __builtin_shuffle(a, b, IntVec{(Lane & Step ? kLanes + Lane - Step : Lane)...});
  const Vec high = __builtin_shuffle(a, b, IntVec{(Lane & Step ? kLanes + Lane : Lane + Step)...});
#endif
  a = low;
  b = high;
}

template <int Step = 1>
inline void transpose(Vec (&square)[kLanes]) {
  if constexpr (Step < kLanes) {
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i)
      if ((i & Step) == 0) exchange<Step>(square[i], square[i + Step], std::make_integer_sequence<int, kLanes>());
    transpose<2 * Step>(square);
  }
}

}  // namespace vlae::VLAE_ISA
