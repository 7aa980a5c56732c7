// Every error reads `<op>: <argument> must <rule>, got <value>`. The parts are only formatted when the check fails.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

#include <torch/headeronly/util/HeaderOnlyArrayRef.h>

namespace vlae {

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// NaN without its sign, which says nothing.
inline std::string number_text(double value) { return value != value ? "nan" : text(value); }

inline std::string shape_text(torch::headeronly::IntHeaderOnlyArrayRef sizes) {
  std::string out = "(";
  for (size_t i = 0; i < sizes.size(); ++i) out += text(i ? ", " : "", sizes[i]);
  return out + (sizes.size() == 1 ? ",)" : ")");
}

}  // namespace vlae

// STD_TORCH_CHECK without the source location it puts in front of the message.
#define VLAE_CHECK(ok, op, argument, rule, value)                                                  \
  do {                                                                                             \
    if (!(ok)) [[unlikely]]                                                                        \
      throw std::runtime_error(::vlae::text(op, ": ", argument, " must ", rule, ", got ", value)); \
  } while (false)
