// Which type the numbers of a call are kept in.
#pragma once

#include <cstdint>

namespace vlae::cuda {

enum class Number : int32_t { float32, bfloat16, float16 };

}  // namespace vlae::cuda
