// Conversions between integers that are meant. Sizes and places are int64_t, as a tensor's are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

namespace vlae {

// For the standard library, which counts in size_t. n was checked where it came in: it is not negative.
constexpr size_t usize(int64_t n) { return static_cast<size_t>(n); }

// A number from outside as a smaller type; throws where it does not fit.
template <typename To>
To narrow(int64_t value) {
  if (!std::in_range<To>(value)) throw std::range_error(std::to_string(value) + " is out of range");
  return static_cast<To>(value);
}

}  // namespace vlae
