// The transform that makes a dimension of x. Plain data, shared by the files of every instruction set and by the GPU's.
#pragma once

#include <cstdint>

namespace vlae {

// x = shift + e^s eps (exp), or eps = shift + slope(s) x with a slope of kLeastSlope at least, but for exp_slope, whose slope
// is e^s; or, with no scale, a draw: x = 1 where eps < sigmoid(shift), else 0, whose log-probability is in the
// log-determinant's place (bernoulli).
enum class MadeScale : int32_t { exp, clipped_exp, softplus, sigmoid, exp_slope, bernoulli };

constexpr float kLeastSlope = 1e-3f, kLogOfLeast = 6.907755278982137f;  // without its sign

}  // namespace vlae
