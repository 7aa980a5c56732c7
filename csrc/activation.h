// What may follow a sum of products; the numbers are those of a plan. gate: tanh(a) * sigmoid(b) of the halves of the columns.
#pragma once

#include <cstdint>

namespace vlae {

enum class Activation : int32_t { none, relu, elu, gate };

}  // namespace vlae
