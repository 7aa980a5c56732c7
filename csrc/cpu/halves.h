// bfloat16 values one by one, in buffers of pairs. Not for the files of one instruction set: it has inline functions.
#pragma once

#include <cstdint>
#include <cstring>

#include "storage.h"

namespace vlae {

constexpr int64_t floats_of(Storage storage, int64_t values) {
  return storage == Storage::bfloat16 ? (values + 1) / 2 : values;
}

// The bits of the nearest bfloat16, ties to even; a NaN stays one.
inline uint16_t bfloat16_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  if (value != value) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

inline float bfloat16_value(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half) << 16;
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Value i of a buffer's pixel.
inline float get_value(Storage storage, const float* pixel, int64_t i) {
  if (storage == Storage::float32) return pixel[i];
  uint16_t half;
  std::memcpy(&half, reinterpret_cast<const char*>(pixel) + 2 * i, sizeof half);
  return bfloat16_value(half);
}

inline void set_value(Storage storage, float* pixel, int64_t i, float value) {
  if (storage == Storage::float32) {
    pixel[i] = value;
    return;
  }
  const uint16_t half = bfloat16_bits(value);
  std::memcpy(reinterpret_cast<char*>(pixel) + 2 * i, &half, sizeof half);
}

// [n, depth] values into pixels side by side.
inline void put_values(Storage storage, const float* values, int64_t n, int64_t depth, float* pixels) {
  if (storage == Storage::float32) {
    std::memcpy(pixels, values, static_cast<size_t>(n * depth) * sizeof(float));
    return;
  }
  uint16_t halves[64];
  for (int64_t i = 0; i < n; ++i, values += depth, pixels += floats_of(storage, depth))
    for (int64_t c = 0; c < depth; c += 64) {
      const int64_t count = depth - c < 64 ? depth - c : 64;
      for (int64_t k = 0; k < count; ++k) halves[k] = bfloat16_bits(values[c + k]);
      std::memcpy(reinterpret_cast<char*>(pixels) + 2 * c, halves, static_cast<size_t>(2 * count));
    }
}

}  // namespace vlae
