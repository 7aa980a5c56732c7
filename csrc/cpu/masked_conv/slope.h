// The gradient of the pre-activation from that of the output, for one band and the rows beyond it that its neighbours reach.
// Everything comes from the output itself and the gate's sigmoid: no exp, and the 2 C columns stay in the nearest caches.
#pragma once

#include "../row_blocks.h"
#include "conv.h"

namespace vlae::VLAE_ISA {

struct SlopePixel {
  const float *grad, *out, *sigmoid;
};

inline Vec slope_of(Activation activation, const SlopePixel& p, int64_t count) {
  const Vec grad = load_some(p.grad, count);
  if (activation == Activation::none) return grad;
  const Vec out = load_some(p.out, count);
  const Vec one = splat(1.0f);
  if (activation == Activation::relu) return out > Vec{} ? grad : Vec{};
  return out > Vec{} ? grad : grad * (out + one);
}

// out = tanh * sigmoid; padding divides by the 1 that load_some does not give.
inline void slope_of_gate(const SlopePixel& p, int64_t count, Vec (&slope)[2]) {
  const Vec grad = load_some(p.grad, count), out = load_some(p.out, count), one = splat(1.0f);
  Vec sigmoid = load_some(p.sigmoid, count);
  sigmoid = sigmoid > Vec{} ? sigmoid : one;
  const Vec tanh = out / sigmoid;
  slope[0] = grad * sigmoid * (one - tanh * tanh);
  slope[1] = grad * out * (one - sigmoid);
}

template <bool Gate, int Vecs>
void slope_row(const Slope& s, const SlopeData& data, int64_t plane, int64_t row, float* to, Vec (&sums)[2], bool own) {
  const int64_t width = s.image.width, columns = Gate ? 2 * s.channels : s.channels;
  for (int64_t j = 0; j < width; ++j, to += Vecs * kLanes) {
    Vec slope[2] = {};
    const int64_t pixel = row * width + j;
    for (int v = 0; v < (Gate ? 1 : Vecs); ++v) {
      const int64_t channel = (Gate ? plane : plane * Vecs + v) * kLanes, count = least(kLanes, s.channels - channel);
      const int64_t at = pixel * s.channels + channel;
      const SlopePixel from = {data.grad + at, data.out + at, data.sigmoid + at};
      if constexpr (Gate)
        slope_of_gate(from, count, slope);
      else
        slope[v] = slope_of(s.activation, from, count);
      if (!own || !data.map) continue;
      store_some(data.map + pixel * columns + channel, slope[v], count);
      if (Gate) store_some(data.map + pixel * columns + s.channels + channel, slope[1], count);
    }
    for (int v = 0; v < Vecs; ++v) {
      store(to + v * kLanes, slope[v]);
      if (own) sums[v] += slope[v];
    }
  }
}

inline void zero(float* from, const float* to) {
  for (; from < to; ++from) *from = 0.0f;
}

template <bool Gate, int Vecs>
void slope_plane(const Slope& s, const Band& band, const SlopeData& data, int64_t plane) {
  const Reach& reach = s.reach;
  const int64_t pixel = Vecs * kLanes, row = (s.image.width + reach.left + reach.right) * pixel;
  const int64_t rows = band.rows + reach.above + reach.below;
  float* to = data.planes + plane * s.plane_floats;
  Vec sums[2] = {};
  for (int64_t r = 0; r < rows; ++r, to += row) {
    const int64_t i = band.first + r - reach.above;
    if (i < 0 || i >= s.image.height) {
      zero(to, to + row);
      continue;
    }
    zero(to, to + reach.left * pixel);
    zero(to + row - reach.right * pixel, to + row);
    slope_row<Gate, Vecs>(s, data, plane, i, to + reach.left * pixel, sums, i >= band.first && i < band.first + band.rows);
  }
  if (data.sums)
    for (int v = 0; v < Vecs; ++v) store(data.sums + (plane * Vecs + v) * kLanes, sums[v]);
}

inline void slope_band(const Slope& s, const Band& band, const SlopeData& data) noexcept {
  const auto run = s.activation == Activation::gate ? slope_plane<true, 2>
                   : s.vecs == 2                    ? slope_plane<false, 2>
                                                    : slope_plane<false, 1>;
  for (int64_t plane = 0; plane < s.planes; ++plane) run(s, band, data, plane);
}

}  // namespace vlae::VLAE_ISA
