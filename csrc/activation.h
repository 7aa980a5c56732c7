// Activations, one list for every family and device. Plain data: the CPU's files of one instruction set and kernels include it.
//
// A switch over them names them all (-Werror=switch-enum): a new activation does not compile where its formula is missing.
// These are cpu/activate.h and cuda/activate.h. The layers of a network have the first five; a stage of a plan has any.
#pragma once

#include <cstdint>

#include "host_device.h"

namespace vlae {

// gate: tanh(a) * sigmoid(b), glu: a * sigmoid(b) of the halves of the columns; the others are of one value.
enum class Activation : int32_t { none, relu, elu, gate, tanh, sigmoid, softplus, silu, gelu, gelu_tanh, glu };

// True where a channel is made of two columns. Always inlined: no copy of it is left that was compiled for an instruction set.
[[gnu::always_inline]] VLAE_HOST_DEVICE constexpr bool is_pair(Activation activation) {
  return activation == Activation::gate || activation == Activation::glu;
}

// Families that take an activation by its name.
constexpr unsigned kMaskedConv = 1, kMaskedLinear = 2, kMadeInverse = 4, kPointwise = 8;

struct ActivationRow {
  Activation activation;
  const char* name;
  unsigned families;
  int64_t code;  // in a plan; -1: a stage cannot have it
};

// As in vlae_fast/activations.py, which tests compare it with.
constexpr ActivationRow kActivations[] = {
    {Activation::none, "none", kMaskedConv | kMaskedLinear, 0},
    {Activation::relu, "relu", kMaskedConv | kMaskedLinear | kMadeInverse | kPointwise, 1},
    {Activation::elu, "elu", kMaskedConv | kMaskedLinear | kMadeInverse | kPointwise, 2},
    {Activation::gate, "gate", kMaskedConv, 3},
    {Activation::tanh, "tanh", kMaskedLinear | kMadeInverse | kPointwise, 4},
    {Activation::sigmoid, "sigmoid", kPointwise, 5},
    {Activation::softplus, "softplus", kPointwise, 6},
    {Activation::silu, "silu", kPointwise, 7},
    {Activation::gelu, "gelu", kPointwise, 8},
    {Activation::gelu_tanh, "gelu_tanh", kPointwise, 9},
    {Activation::glu, "glu", 0, 10},
};

constexpr int64_t last_code() {
  int64_t last = 0;
  for (const ActivationRow& row : kActivations) last = row.code > last ? row.code : last;
  return last;
}

}  // namespace vlae
