// A logit to a pixel, the same on every device. Not for the CPU's files of one instruction set: it has an inline function.
#pragma once

#include <cmath>

#include "waves.h"

namespace vlae {

// noise < sigmoid(logit / temperature), in float64 and without a division by the sum.
VLAE_HOST_DEVICE inline bool draw_bernoulli(double noise, double logit, double temperature) {
  return noise * (1.0 + exp(-logit / temperature)) < 1.0;
}

}  // namespace vlae
