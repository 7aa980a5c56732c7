// Activations, one list for every family and device. Plain data: the CPU's files of one instruction set and kernels include it.
//
// A switch over it names them all (-Werror=switch-enum): a new activation does not compile where its formula is missing.
#pragma once

#include <cstdint>

namespace vlae {

// gate: tanh(a) * sigmoid(b) of the halves of the columns; the others are of one value.
enum class Activation : int32_t { none, relu, elu, gate, tanh };

}  // namespace vlae
