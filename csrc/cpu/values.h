// Values as memory holds them, for the kernels of an instruction set: float32, or bfloat16 in pairs, each pair in the place of
// a float. Sums are float32 in both.
#pragma once

#include <cstddef>

#include "vec.h"

namespace vlae::VLAE_ISA {

// What kernels are templated on. `at` counts values, and so does `count`, 0 < count <= kLanes: nothing behind them is touched.
struct Float32 {
  using Number = float;
  static constexpr int kTogether = 1;  // in the place of a float

  static constexpr int64_t floats(int64_t values) { return values; }

  static Vec load(const float* p, int64_t at, int64_t count) { return load_some(p + at, count); }
  static void store(float* p, int64_t at, Vec v, int64_t count) { store_some(p + at, v, count); }

  static Vec multiply_add(float a, Vec b, Vec sum) { return a * b + sum; }

  static Vec gate(Vec a, Vec b) { return VLAE_ISA::gate(a, b); }
};

typedef uint32_t BitVec __attribute__((vector_size(4 * VLAE_LANES)));
typedef uint16_t HalfVec __attribute__((vector_size(2 * VLAE_LANES)));

// GCC 12 converts a register of 16 lanes half by half. A mask of all lanes: without one, it takes its header for a read of what
// nobody set.
inline BitVec widen(HalfVec v) {
#if defined(__AVX512F__)
  return (BitVec)_mm512_maskz_cvtepu16_epi32(0xffff, (__m256i)v);
#else
  return __builtin_convertvector(v, BitVec);
#endif
}

// To the nearest, ties to even, as the processors' instruction does it; a NaN stays one.
inline HalfVec to_bfloat16(Vec v) {
#if defined(__AVX512BF16__)
  return (HalfVec)_mm512_cvtneps_pbh((__m512)v);
#else
  const BitVec bits = (BitVec)v, rounded = bits + 0x7fff + (bits >> 16 & 1);
  return __builtin_convertvector((v == v ? rounded : bits | 0x400000) >> 16, HalfVec);
#endif
}

// Where a count is odd, the value beside the last is nobody's: it is 0 from the start, and products read it.
struct Bfloat16 {
  using Number = uint16_t;
  static constexpr int kTogether = 2;

  static constexpr int64_t floats(int64_t values) { return (values + 1) / 2; }

  static Vec load(const float* p, int64_t at, int64_t count) {
    HalfVec halves = {};
    const char* from = reinterpret_cast<const char*>(p) + 2 * at;
#if defined(__AVX512BW__)
    if (count < kLanes)
      halves = (HalfVec)_mm256_maskz_loadu_epi16(first(count), from);
    else
      __builtin_memcpy(&halves, from, sizeof halves);
#else
    __builtin_memcpy(&halves, from, static_cast<size_t>(2 * count));
#endif
    return (Vec)(widen(halves) << 16);
  }

  static void store(float* p, int64_t at, Vec v, int64_t count) {
    const HalfVec halves = to_bfloat16(v);
    char* to = reinterpret_cast<char*>(p) + 2 * at;
#if defined(__AVX512BW__)
    if (count < kLanes) return _mm256_mask_storeu_epi16(to, first(count), (__m256i)halves);
    __builtin_memcpy(to, &halves, sizeof halves);
#else
    __builtin_memcpy(to, &halves, static_cast<size_t>(2 * count));
#endif
  }

  // sum + the two products of a pair: by the processor's instruction, which takes numbers too small to be normal as 0, or both
  // in float32.
  static Vec multiply_add(float a, Vec b, Vec sum) {
    const Vec pair = splat_bits(a);
#if defined(__AVX512BF16__)
    return (Vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)pair, (__m512bh)b);
#else
    return low(pair) * low(b) + (high(pair) * high(b) + sum);
#endif
  }

  // tanh(a) * sigmoid(b) within 2^-14: what is rounded to 8 bits has no use for more. e^x = 2^floor(t) (r q(r) + 1) with
  // t = x / ln 2 and r = t - floor(t); that of 2 |a| goes up to 10, whose tanh is 1, and without cancellation around 0.
#if defined(__AVX512F__)
  static Vec gate(Vec a, Vec b) {
    const float per_ln2 = 1.44269504088896341f;
    const Vec size = absolute(a), most = splat(10.0f), one = splat(1.0f);
    const Vec t = (size > most ? most : size) * splat(2 * per_ln2), r = fraction(t), scale = times_two_to(one, t);
    const Vec above = scale * (r * near_exp2(r)) + (scale - one), below = above + splat(2.0f);
    const Vec u = b * splat(-per_ln2), s = fraction(u), tail = times_two_to(s * near_exp2(s) + one, u);
    return with_sign(above / (below * tail + below), a);
  }
#else
  static Vec gate(Vec a, Vec b) { return VLAE_ISA::gate(a, b); }
#endif

  // A number beside 0, as its pair is.
  static float alone(uint16_t number, bool second) {
    const uint32_t bits = static_cast<uint32_t>(number) << (second ? 16 : 0);
    float pair;
    __builtin_memcpy(&pair, &bits, sizeof pair);
    return pair;
  }
  // Pairs with 0 in the place of the other number; the numbers themselves; pairs with numbers v in the place of their own.
  static Vec half(Vec pairs, bool second) { return (Vec)((BitVec)pairs & mask(second)); }
  static Vec widened(Vec pairs, bool second) { return second ? high(pairs) : low(pairs); }
  static Vec joined(Vec pairs, bool second, Vec v) {
    const BitVec own = widen(to_bfloat16(v));
    return (Vec)(((BitVec)pairs & ~mask(second)) | (second ? own << 16 : own));
  }

 private:
  static constexpr uint32_t mask(bool second) { return second ? 0xffff0000u : 0xffffu; }
#if defined(__AVX512F__)
  // (2^r - 1) / r within 2^-15 on [0, 1).
  static Vec near_exp2(Vec r) {
    Vec q = splat(1.270729024e-2f);
    q = q * r + splat(5.352327600e-2f);
    q = q * r + splat(2.406171113e-1f);
    return q * r + splat(6.931355595e-1f);
  }
  static Vec fraction(Vec t) { return (Vec)_mm512_reduce_ps((__m512)t, _MM_FROUND_TO_NEG_INF); }
  // 2^floor(t). A mask of all lanes: without one, GCC 12 takes its header for a read of what nobody set.
  static Vec times_two_to(Vec x, Vec t) { return (Vec)_mm512_maskz_scalef_ps(0xffff, (__m512)x, (__m512)t); }
#endif
  // Not splat(): its subtraction would make a normal number or a quiet NaN of the bits.
  static Vec splat_bits(float a) {
    int32_t bits;
    __builtin_memcpy(&bits, &a, sizeof bits);
    return (Vec)(bits - IntVec{});
  }
  static Vec low(Vec pairs) { return (Vec)((BitVec)pairs << 16); }
  static Vec high(Vec pairs) { return (Vec)((BitVec)pairs & 0xffff0000u); }
#if defined(__AVX512BW__)
  static __mmask16 first(int64_t count) { return static_cast<__mmask16>((1u << count) - 1); }
#endif
};

}  // namespace vlae::VLAE_ISA
