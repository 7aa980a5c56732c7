// In what a program's buffers and matrices are held. Plain data, shared by the files of every instruction set.
#pragma once

#include <cstdint>

namespace vlae {

// bfloat16 lies in pairs, each in the place of a float: all sizes and offsets count floats. Kept in packed tensors: never reuse
// a number.
enum class Storage : int { float32 = 0, bfloat16 = 1 };

}  // namespace vlae
