// The matrix instruction of 16-bit values.
#pragma once

#include "conversions.h"

namespace vlae::cuda {

#if defined(__CUDACC__)

// d = a b + d for a 16 x 16, b 16 x 8; see PTX's mma.m16n8k16 for what a lane holds of each.
template <typename T>
__device__ void multiply_matrices(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);

#define VLAE_MMA(T, name)                                                                                      \
  template <>                                                                                                  \
  __device__ inline void multiply_matrices<T>(float(&d)[4], const uint32_t(&a)[4], uint32_t b0, uint32_t b1) { \
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." name "." name                                        \
                 ".f32 "                                                                                       \
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"                                       \
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                                              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));                              \
  }
VLAE_MMA(BFloat16, "bf16")
VLAE_MMA(Float16, "f16")
#undef VLAE_MMA

#else

template <typename T>
void multiply_matrices(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  vlae::host::multiply_matrices<T>(d, a, b0, b1);
}

#endif

}  // namespace vlae::cuda
