// The type that the values of a call are kept in. Sums are float32 for all of them.
#pragma once

#include <cstdint>

namespace vlae::cuda {

enum class Dtype : int32_t { float32, bfloat16, float16 };

}  // namespace vlae::cuda
