// Activations of one value that may follow a matrix product. Plain data, shared by all devices.
#pragma once

#include <cstdint>

namespace vlae {

enum class Pointwise : int32_t { none, relu, elu, tanh };

}  // namespace vlae
