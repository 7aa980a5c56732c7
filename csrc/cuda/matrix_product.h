// Matrix instructions of 16-bit values, with the load of their left operand, and of float32 values in two parts.
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

// d = a b + d for a 16 x 8, b 8 x 8, of whose numbers 11 significant bits count; see PTX's mma.m16n8k8.
__device__ inline void multiply_tf32(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

#else

template <typename T>
void multiply_matrices(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  vlae::host::multiply_matrices<T>(d, a, b0, b1);
}

inline void load_matrices(uint32_t (&a)[4], const void* from) { vlae::host::load_matrices(a, from); }

#endif

// Numbers of 11 significant bits each, whose sum is a float: to the nearest the one, the rest the other.
template <int N>
struct Split {
  uint32_t high[N], low[N];
};

template <int N>
__device__ inline Split<N> split(const float (&values)[N]) {
  Split<N> parts;
#pragma unroll
  for (int i = 0; i < N; ++i) {
    parts.high[i] = (bits_of(values[i]) + 0x1000) & ~0x1fffu;
    parts.low[i] = bits_of(values[i] - float_of(parts.high[i]));
  }
  return parts;
}

// high, low[0], low[1] += the products a b of 16 x 8 and 8 x 8 numbers: of their high parts, of the low and the high one, of
// the high and the low one.
__device__ inline void multiply_split(float (&high)[4], float (&low)[2][4], const Split<4>& a, const Split<2>& b) {
#if defined(__CUDACC__)
  multiply_tf32(low[0], a.low, b.high);
  multiply_tf32(low[1], a.high, b.low);
  multiply_tf32(high, a.high, b.high);
#else
  vlae::host::multiply_tf32({{{a.low, b.high, low[0]}, {a.high, b.low, low[1]}, {a.high, b.high, high}}});
#endif
}

}  // namespace vlae::cuda
