// What a matrix tile multiplies by: windows of live taps, and weights in the order of their products.
#pragma once

#include <vector>

#include "arguments.h"
#include "tiles.h"

namespace vlae::masked_conv {

inline const Half* halves(const Tensor& tensor) { return static_cast<const Half*>(tensor.const_data_ptr()); }
inline Half* halves_of_new(Tensor& tensor) { return static_cast<Half*>(tensor.mutable_data_ptr()); }

// The windows of a map of so many channels by taps, or by the mirrored ones, and of a context.
class Windows {
 public:
  Windows(const Image& image, const Taps& taps, int64_t channels, int64_t context_channels, bool mirrored = false);
  Windows(const Windows&) = delete;
  Windows& operator=(const Windows&) = delete;

  const Window& window() const { return window_; }
  // Of each product with the map, its tap: a place in the kernel.
  const std::vector<int64_t>& places() const { return places_; }

 private:
  std::vector<TapRun> runs_;
  std::vector<int64_t> places_;
  Window window_;
};

// Weights of the products of a window by columns: those of product k and column c lie at from[k] + base[c] of `data`.
struct TileWeights {
  const float* data;
  const bool* live;  // nullptr: all
  std::vector<int64_t> from, base;
};

// Products of taps with channels of x, by columns.
TileWeights map_weights(const ConvArguments& a, const Windows& windows);
// Products of mirrored taps with columns of a slope, by channels of x.
TileWeights mirrored_weights(const ConvArguments& a, const Windows& windows);
// Products with the columns of a pixel's slope, by taps times channels of x.
TileWeights spread_weights(const ConvArguments& a);
// Products with a context, by columns; context_weight is [P, D].
TileWeights context_weights(const Tensor& weight, int64_t p, int64_t channels);

// A layer of the products' columns, packed.
class TileLayer {
 public:
  // parts: of the products in their order.
  TileLayer(const Windows& windows, Activation activation, int64_t out_channels, const std::vector<TileWeights>& parts,
            const float* bias);
  TileLayer(const TileLayer&) = delete;
  TileLayer& operator=(const TileLayer&) = delete;

  const TileGather& gather() const { return gather_; }

 private:
  std::vector<Half> weight_;
  std::vector<float> bias_;
  TileGather gather_;
};

}  // namespace vlae::masked_conv
