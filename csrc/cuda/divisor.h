// Division by a number that is known before the launch: a product and a shift, where a GPU's division is some 30 instructions.
#pragma once

#include <bit>
#include <cstdint>

#include "../host_device.h"

namespace vlae::cuda {

// n / value is n * magic >> 31 + shift for n in 0 .. 2^31 - 1: magic is 2^(31 + shift) / value, rounded up, which 2^shift >=
// value keeps too small to reach the next whole number.
struct Divisor {
  int32_t value;
  uint32_t magic;
  int32_t shift;

  VLAE_HOST_DEVICE operator int32_t() const { return value; }
};

VLAE_HOST_DEVICE inline int32_t operator/(int32_t n, const Divisor& d) {
  return static_cast<int32_t>((static_cast<uint64_t>(2 * static_cast<uint32_t>(n)) * d.magic >> 32) >> d.shift);
}

VLAE_HOST_DEVICE inline int32_t operator%(int32_t n, const Divisor& d) { return n - n / d * d.value; }

// Nothing is divided by a value of 0.
inline Divisor divisor_of(int64_t value) {
  if (value == 0) return {};
  const uint64_t v = static_cast<uint64_t>(value);
  const int shift = static_cast<int>(std::bit_width(v - 1));
  return {static_cast<int32_t>(value), static_cast<uint32_t>(((uint64_t{1} << (31 + shift)) + v - 1) / v), shift};
}

}  // namespace vlae::cuda
