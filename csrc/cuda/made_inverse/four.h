// A four: the packed weights of four rows, which a lane reads at once.
#pragma once

#include "../conversions.h"
#include "kernel.h"

namespace vlae::cuda::made_inverse {

template <typename T>
struct alignas(kLaneRows * sizeof(T)) Four {
  T at[kLaneRows];
};

}  // namespace vlae::cuda::made_inverse
