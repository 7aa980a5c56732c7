// Four numbers that are read at once, of packed weights.
#pragma once

#include "../numbers.h"
#include "kernel.h"

namespace vlae::cuda {

constexpr int kInverseThreads = kLanes * kWarps;

template <typename T>
struct alignas(kLaneRows * sizeof(T)) Four {
  T at[kLaneRows];
};

}  // namespace vlae::cuda
