// An activation by its name or its code. Not for the CPU's files of one instruction set: it has inline functions.
#pragma once

#include <string>

#include "activation.h"
#include "checks.h"

namespace vlae {

// Throws unless the op's family takes an activation of this name.
inline Activation parse_activation(const char* op, const std::string& name, unsigned family) {
  std::string names;
  for (const ActivationRow& row : kActivations) {
    if (!(row.families & family)) continue;
    if (name == row.name) return row.activation;
    names += (names.empty() ? "" : ", ") + std::string(row.name);
  }
  VLAE_CHECK(false, op, "activation", "be one of " + names, name);
  __builtin_unreachable();
}

// The activation of a stage; the code is one of 0 .. last_code().
inline Activation activation_of_code(int64_t code) {
  for (const ActivationRow& row : kActivations)
    if (row.code == code) return row.activation;
  throw std::runtime_error(text("activation ", code, " has no row"));
}

}  // namespace vlae
