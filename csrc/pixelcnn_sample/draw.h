// Parameters to a pixel in float64, the same on every device; vlae_fast/reference/pixelcnn_draw.py has the formulas. Not for
// the CPU's files of one instruction set: it has inline functions.
#pragma once

#include <cmath>

#include "emit.h"
#include "waves.h"

namespace vlae {

// noise < sigmoid(logit / temperature), without a division by the sum.
VLAE_HOST_DEVICE inline bool draw_bernoulli(double noise, double logit, double temperature) {
  return noise * (1.0 + exp(-logit / temperature)) < 1.0;
}

// The first k at which the sum of exp(logit(0..k) / temperature) exceeds its share `noise` of the whole.
template <typename Logit>
VLAE_HOST_DEVICE int64_t draw_index(int64_t n, double noise, double temperature, const Logit& logit) {
  double most = logit(0) / temperature, total = 0, sum = 0;
  for (int64_t k = 1; k < n; ++k) most = fmax(most, logit(k) / temperature);
  for (int64_t k = 0; k < n; ++k) total += exp(logit(k) / temperature - most);
  int64_t index = 0;
  for (; index < n - 1; ++index) {
    sum += exp(logit(index) / temperature - most);
    if (sum > noise * total) break;
  }
  return index;
}

// The level of a value in [-1, 1] as a pixel in [0, 1]; the value itself where there are no levels.
VLAE_HOST_DEVICE inline double pixel_of(double value, int32_t levels) {
  if (levels == 0) return fmin(fmax((value + 1) / 2, 0.0), 1.0);
  const double top = levels - 1;
  return fmin(fmax(floor((value + 1) / 2 * top + 0.5), 0.0), top) / top;
}

// Channel c of a logistic of mixture component k, given the channels before it.
template <typename Pixel>
VLAE_HOST_DEVICE double draw_logistic(const Emit& emit, int64_t channels, int64_t c, int64_t k, double temperature,
                                      const Pixel& pixel) {
  const int64_t n = emit.components, coefficients = 1 + 2 * channels + c * (c - 1) / 2;
  double mean = pixel.param((1 + c) * n + k);
  for (int64_t other = 0; other < c; ++other)
    mean += tanh(pixel.param((coefficients + other) * n + k)) * (2 * pixel.drawn(other) - 1);
  const double scale = exp(fmin(fmax(pixel.param((1 + channels + c) * n + k), -7.0), 7.0)), noise = pixel.noise(1 + c);
  return pixel_of(mean + temperature * scale * log(noise / (1 - noise)), emit.levels);
}

// Which of a pixel's parameters is number k of those of a draw of channels first .. first + count - 1 of `channels`.
VLAE_HOST_DEVICE inline int64_t param_of_draw(const Emit& emit, int64_t channels, int64_t first, int64_t count, int64_t k) {
  if (count == channels) return k;
  if (emit.kind == EmitKind::affine) return k * channels + first;
  return emit.kind == EmitKind::categorical ? first * emit.levels + k : first + k;
}

// A pixel, channel after channel. Pixel: param(i), noise(i), drawn(c) of a channel before, and draw(c, value).
template <typename Pixel>
VLAE_HOST_DEVICE void draw_pixel(const Emit& emit, int64_t channels, double temperature, const Pixel& pixel) {
  int64_t component = 0;
  if (emit.kind == EmitKind::logistic_mixture)
    component = draw_index(emit.components, pixel.noise(0), temperature, [&](int64_t k) { return pixel.param(k); });
  for (int64_t c = 0; c < channels; ++c) switch (emit.kind) {
      case EmitKind::bernoulli: pixel.draw(c, draw_bernoulli(pixel.noise(c), pixel.param(c), temperature)); break;
      case EmitKind::categorical: {
        const auto logit = [&](int64_t k) { return pixel.param(c * emit.levels + k); };
        const double index = static_cast<double>(draw_index(emit.levels, pixel.noise(c), temperature, logit));
        pixel.draw(c, index / (emit.levels - 1.0));
        break;
      }
      case EmitKind::logistic_mixture: pixel.draw(c, draw_logistic(emit, channels, c, component, temperature, pixel)); break;
      case EmitKind::affine:
        pixel.draw(c, pixel.param(c) + temperature * exp(pixel.param(channels + c)) * pixel.noise(c));
        break;
    }
}

}  // namespace vlae
