// Vectors of floats and the activations over them, for the instruction set this file is compiled for.
//
// GCC and Clang lower the vector extension to SSE, AVX2, AVX-512 or NEON alike, so there is one source. Everything lives in
// the namespace of its instruction set: were two of them to share a name, the linker would keep one copy for both.
#pragma once

#include <cstdint>

#if defined(__AVX__)
#include <immintrin.h>
#endif

#ifndef VLAE_ISA
#error "define VLAE_ISA as the name of the instruction set"
#endif

#if defined(__AVX512F__)
#define VLAE_LANES 16
#elif defined(__AVX__)
#define VLAE_LANES 8
#else
#define VLAE_LANES 4
#endif

namespace vlae::VLAE_ISA {

constexpr int kLanes = VLAE_LANES;

constexpr int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

typedef float Vec __attribute__((vector_size(4 * VLAE_LANES)));
typedef int32_t IntVec __attribute__((vector_size(4 * VLAE_LANES)));

// 32 vector registers or 16: the register blocks are sized by this. NEON multiplies by one lane of a register, not of memory:
// a row's value takes a register as well.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr bool kManyRegisters = true;
#else
constexpr bool kManyRegisters = false;
#endif
#if defined(__aarch64__)
constexpr bool kScalarsInRegisters = true;
#else
constexpr bool kScalarsInRegisters = false;
#endif

inline Vec load(const float* p) {
  Vec v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

inline void store(float* p, Vec v) { __builtin_memcpy(p, &v, sizeof v); }

// The first `count` lanes, 0 < count <= kLanes; nothing behind them is touched. The others are loaded as 0.
#if defined(__AVX512F__)
inline Vec load_some(const float* p, int64_t count) {
  return count == kLanes ? load(p) : (Vec)_mm512_maskz_loadu_ps(static_cast<__mmask16>((1u << count) - 1), p);
}
inline void store_some(float* p, Vec v, int64_t count) {
  count == kLanes ? store(p, v) : _mm512_mask_storeu_ps(p, static_cast<__mmask16>((1u << count) - 1), (__m512)v);
}
#elif defined(__AVX__)
inline __m256i first_lanes(int64_t count) {
  return (__m256i)(static_cast<int32_t>(count) - IntVec{} > IntVec{0, 1, 2, 3, 4, 5, 6, 7});
}
inline Vec load_some(const float* p, int64_t count) {
  return count == kLanes ? load(p) : (Vec)_mm256_maskload_ps(p, first_lanes(count));
}
inline void store_some(float* p, Vec v, int64_t count) {
  count == kLanes ? store(p, v) : _mm256_maskstore_ps(p, first_lanes(count), (__m256)v);
}
#else
inline Vec load_some(const float* p, int64_t count) {
  if (count == kLanes) return load(p);
  Vec v = {};
  for (int64_t lane = 0; lane < count; ++lane) v[lane] = p[lane];
  return v;
}
inline void store_some(float* p, Vec v, int64_t count) {
  if (count == kLanes) return store(p, v);
  for (int64_t lane = 0; lane < count; ++lane) p[lane] = v[lane];
}
#endif

inline Vec splat(float x) { return x - Vec{}; }

// The comparisons are written so that NaN passes through.
inline Vec clamp(Vec x, float low, float high) {
  x = x < splat(low) ? splat(low) : x;
  return x > splat(high) ? splat(high) : x;
}

// e^x = (p * r + 1) * scale with |r| <= ln(2) / 2, on [-87, 88], clamped outside.
struct ExpParts {
  Vec p, r, scale;
};

// Only chains of a * b + c: they contract in one way.
inline ExpParts exp_parts(Vec x) {
  x = clamp(x, -87.0f, 88.0f);
  const Vec shift = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
  const Vec shifted = x * splat(1.44269504088896341f) + shift;
  const Vec n = shifted - shift;
  Vec r = n * splat(-0.693359375f) + x;  // ln 2 in two parts, the first exact in 10 bits
  r = n * splat(2.12194440e-4f) + r;
  Vec p = splat(1.9875691500e-4f);
  p = p * r + splat(1.3981999507e-3f);
  p = p * r + splat(8.3334519073e-3f);
  p = p * r + splat(4.1665795894e-2f);
  p = p * r + splat(1.6666665459e-1f);
  p = p * r + splat(5.0000001201e-1f);
  p = p * r + splat(1.0f);
  const IntVec exponent = ((IntVec)shifted << 23) + (127 << 23);
  return {p, r, (Vec)exponent};
}

// Within 2 units in the last place on [-87, 88], clamped outside.
inline Vec exp(Vec x) {
  const ExpParts e = exp_parts(x);
  return (e.p * e.r + splat(1.0f)) * e.scale;
}

// e^x - 1 without the cancellation around 0.
inline Vec expm1(Vec x) {
  const ExpParts e = exp_parts(x);
  return e.p * e.r * e.scale + (e.scale - splat(1.0f));
}

inline Vec relu(Vec x) { return x < Vec{} ? Vec{} : x; }

inline Vec elu(Vec x) { return x > Vec{} ? x : expm1(x); }

// tanh within 3 units in the last place: an odd polynomial around 0, where 1 - 2 / (e^2x + 1) would cancel. NaN passes.
inline Vec tanh(Vec x) {
  const Vec z = x * x;
  Vec p = splat(-5.70498872745e-3f);
  p = p * z + splat(2.06390887954e-2f);
  p = p * z + splat(-5.37397155531e-2f);
  p = p * z + splat(1.33314422036e-1f);
  p = p * z + splat(-3.33332819422e-1f);
  const Vec near = p * z * x + x;
  const Vec far = splat(1.0f) - splat(2.0f) / (exp(clamp(x, -9.1f, 9.1f) * splat(2.0f)) + splat(1.0f));
  return ((x < splat(0.625f)) & (x > splat(-0.625f))) ? near : far;
}

// The size of x with the sign of `sign`.
inline Vec with_sign(Vec x, Vec sign) {
  const IntVec bit = IntVec{} + INT32_MIN;
  return (Vec)(((IntVec)x & ~bit) | ((IntVec)sign & bit));
}

// 1 + e^-b, finite and times 2.5 as well: where it is cut, the sigmoid is no normal number.
inline Vec one_and_exp(Vec b) {
  const Vec most = splat(87.5f);
  return exp(-b > most ? most : -b) + splat(1.0f);
}

// tanh(a) * sigmoid(b) with one division, within 5 units in the last place. tanh|a| = (e^2|a| - 1) / (e^2|a| + 1), both
// without their common power of two: they are as exact as a is small, and no larger than 2.5.
inline Vec gate(Vec a, Vec b) {
  const ExpParts e = exp_parts(with_sign(a + a, splat(1.0f)));
  const Vec least = (Vec)((254 << 23) - (IntVec)e.scale);  // 1 / scale
  const Vec above = e.p * e.r + (splat(1.0f) - least), below = e.p * e.r + (splat(1.0f) + least);
  return with_sign(above / (below * one_and_exp(b)), a);
}

// Never 0, so that the gate's value divided by it is its tanh.
inline Vec sigmoid(Vec b) { return splat(1.0f) / one_and_exp(b); }

inline Vec absolute(Vec x) { return with_sign(x, splat(1.0f)); }

// e^(-|x| / 2), whose square is no normal number where it may be off.
inline Vec root_of_exp(Vec x) { return exp(absolute(x) * splat(-0.5f)); }

// a * sigmoid(b). Below 0 it is a e^b / (1 + e^b), multiplied by one root after the other: the product is a normal number where
// the sigmoid is none and a is large.
inline Vec times_sigmoid(Vec a, Vec b) {
  const Vec h = root_of_exp(b), factor = b < Vec{} ? h : splat(1.0f);
  return a * factor * factor / (h * h + splat(1.0f));
}

// log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), and log(1 + e) = 2 artanh(e / (2 + e)).
inline Vec softplus(Vec x) {
  const Vec h = root_of_exp(x), e = h * h, s = e / (splat(2.0f) + e), z = s * s;
  Vec p = splat(0.1220661169f);
  p = p * z + splat(0.1069660605f);
  p = p * z + splat(0.143103627f);
  p = p * z + splat(0.199993454f);
  p = p * z + splat(0.3333333965f);
  p = p * z + splat(1.0f);
  return (s + s) * p + (x < Vec{} ? Vec{} : x);
}

// x Phi(x), with Phi(-a) = e^(-a^2 / 2) p(q) / (a + 4), q = (a - 4) / (a + 4), for a = |x|: p is within 1e-8 of its value. The
// square is taken of the 12 leading bits of a, exactly, and of the rest: rounded as a whole it would be off by a^2 / 2 units in
// the last place. From a = 14.5 on the value is no normal number.
inline Vec gelu(Vec x) {
  const Vec a = clamp(absolute(x), 0.0f, 14.5f);
  const Vec head = (Vec)((IntVec)a & ~0xfff), rest = (a - head) * (a + head);
  const Vec t = splat(1.0f) / (a + splat(4.0f)), q = (a - splat(4.0f)) * t;
  Vec p = splat(-1.341942504e-4f);
  p = p * q + splat(1.746608708e-4f);
  p = p * q + splat(1.568405658e-3f);
  p = p * q + splat(-3.510212713e-3f);
  p = p * q + splat(-7.524003293e-3f);
  p = p * q + splat(6.040349001e-2f);
  p = p * q + splat(-0.1865236565f);
  p = p * q + splat(0.3871369165f);
  p = p * q + splat(-0.6078965799f);
  p = p * q + splat(0.7552851353f);
  const Vec tail = exp(head * head * splat(-0.5f)) * exp(rest * splat(-0.5f)) * (p * t) * a;
  return x < Vec{} ? -tail : x - tail;
}

// x sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3)).
inline Vec gelu_tanh(Vec x) { return times_sigmoid(x, x * (x * x * splat(0.0713548163f) + splat(1.5957691216f))); }

}  // namespace vlae::VLAE_ISA
