// Long sums of vectors.
#pragma once

#include "vec.h"

namespace vlae::VLAE_ISA {

// A sum that carries its rounding error along (Kahan): as exact as its terms, however many there are.
struct LongSum {
  Vec total = {}, lost = {};

  void add(Vec x) {
    const Vec term = x - lost, sum = total + term;
    lost = (sum - total) - term;
    total = sum;
  }
};

}  // namespace vlae::VLAE_ISA
