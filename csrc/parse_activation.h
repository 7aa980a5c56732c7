// Names of activations. Not for the CPU's files of one instruction set: it has inline functions.
#pragma once

#include <span>
#include <string>

#include "activation.h"
#include "checks.h"

namespace vlae {

inline const char* name_of(Activation activation) {
  switch (activation) {
    case Activation::none: return "none";
    case Activation::relu: return "relu";
    case Activation::elu: return "elu";
    case Activation::gate: return "gate";
    case Activation::tanh: return "tanh";
  }
  throw std::runtime_error(text("activation ", static_cast<int>(activation), " has no name"));
}

// Throws unless the name is one of `taken`, those of the op's family.
inline Activation parse_activation(const char* op, const std::string& name, std::span<const Activation> taken) {
  std::string names;
  for (const Activation activation : taken) {
    if (name == name_of(activation)) return activation;
    names += (names.empty() ? "" : ", ") + std::string(name_of(activation));
  }
  VLAE_CHECK(false, op, "activation", "be one of " + names, name);
  __builtin_unreachable();
}

}  // namespace vlae
