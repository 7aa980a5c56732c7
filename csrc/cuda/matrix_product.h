// The matrix instruction of 16-bit values, and the load of its left operand.
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

// a = the 16 x 16 left operand of multiply_matrices. from, in shared memory: of lane l 8 values of row l % 16, those of its
// first half for l < 16.
__device__ inline void load_matrices(uint32_t (&a)[4], const void* from) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(from))));
}

#else

template <typename T>
void multiply_matrices(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  vlae::host::multiply_matrices<T>(d, a, b0, b1);
}

inline void load_matrices(uint32_t (&a)[4], const void* from) { vlae::host::load_matrices(a, from); }

#endif

}  // namespace vlae::cuda
