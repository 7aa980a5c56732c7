// The gradient of the pre-activation from that of the output, for one band and the rows beyond it that its neighbours reach.
// Everything comes from the output itself and the gate's sigmoid: no exp, and the 2 C columns stay in the nearest caches.
#pragma once

#include "../row_blocks.h"
#include "conv.h"

namespace vlae::masked_conv::VLAE_ISA {

using namespace vlae::VLAE_ISA;

struct SlopePixel {
  const float *grad, *out, *sigmoid;
};

inline Vec slope_of(Activation activation, const SlopePixel& p, int64_t count) {
  const Vec grad = load_some(p.grad, count);
  if (activation == Activation::none) return grad;  // there may be no output
  return times_slope(activation, grad, load_some(p.out, count));
}

// A row of one plane, in ascending order: what a vector writes beyond its pixel is written over by the next.
template <bool Gate, int Vecs>
void slope_row(const Slope& s, const SlopeData& data, int64_t row, int64_t plane, bool map, float* to) {
  const int64_t columns = Gate ? 2 * s.channels : s.channels, width = s.image.width;
  for (int64_t pixel = row * width; pixel < (row + 1) * width; ++pixel, to += s.pixel) {
    for (int v = 0; v < Vecs; v += Gate ? 2 : 1) {
      const int64_t channel = (Gate ? plane : plane * Vecs + v) * kLanes, count = least(kLanes, s.channels - channel);
      const int64_t at = pixel * s.channels + channel;
      const SlopePixel from = {data.grad + at, data.out + at, data.sigmoid + at};
      Vec slope[2];
      if constexpr (Gate)
        times_gate_slope(load_some(from.grad, count), load_some(from.out, count), load_some(from.sigmoid, count), slope);
      else
        slope[0] = slope_of(s.activation, from, count);
      for (int half = 0; half < (Gate ? 2 : 1); ++half) {
        store(to + (v + half) * kLanes, slope[half]);
        if (map) store_some(data.map + pixel * columns + half * s.channels + channel, slope[half], count);
      }
    }
  }
}

// Adds a row of one plane to its sums: four short sums a row, then Kahan's, for a gradient of bias is one sum over all pixels.
inline void sum_row(const Slope& s, const float* row, float* sums) {
  const int64_t to_lost = s.planes * s.vecs * kLanes;
  for (int64_t v = 0; v < s.vecs; ++v, row += kLanes, sums += kLanes) {
    Vec part[4] = {};
    const float *from = row, *end = row + s.image.width * s.pixel;
    for (; from + 3 * s.pixel < end; from += 4 * s.pixel)
      for (int i = 0; i < 4; ++i) part[i] += load(from + i * s.pixel);
    for (int i = 0; from < end; from += s.pixel) part[i++] += load(from);
    const Vec before = load(sums), term = (part[0] + part[1]) + (part[2] + part[3]) - load(sums + to_lost);
    const Vec after = before + term;
    store(sums + to_lost, (after - before) - term);
    store(sums, after);
  }
}

inline void zero(float* to, int64_t floats) {
  for (int64_t i = 0; i < floats; i += kLanes) store(to + i, Vec{});
}

template <bool Gate, int Vecs>
void slope_rows(const Slope& s, const Band& band, const SlopeData& data) {
  const Reach& reach = s.reach;
  const int64_t left = reach.left * s.pixel, inner = s.image.width * s.pixel, right = reach.right * s.pixel;
  float* to = data.planes;
  for (int64_t i = band.first - reach.above; i < band.first + band.rows + reach.below; ++i, to += left + inner + right) {
    const bool inside = i >= 0 && i < s.image.height, own = i >= band.first && i < band.first + band.rows;
    for (int64_t plane = 0; plane < s.planes; ++plane) {
      float* row = to + plane * s.plane_floats;
      zero(row, inside ? left : left + inner + right);
      if (!inside) continue;
      slope_row<Gate, Vecs>(s, data, i, plane, own && data.map, row + left);
      zero(row + left + inner, right);
      if (own && data.sums) sum_row(s, row + left, data.sums + plane * Vecs * kLanes);
    }
  }
}

inline void slope_band(const Slope& s, const Band& band, const SlopeData& data) noexcept {
  for (int64_t i = 0; data.sums && i < 2 * s.planes * s.vecs * kLanes; i += kLanes) store(data.sums + i, Vec{});
  const auto run = s.activation == Activation::gate ? slope_rows<true, 2>
                   : s.vecs == 2                    ? slope_rows<false, 2>
                                                    : slope_rows<false, 1>;
  run(s, band, data);
}

}  // namespace vlae::masked_conv::VLAE_ISA
