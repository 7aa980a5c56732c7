#include "tile_layer.h"

#include <utility>

#include "../../narrow.h"
#include "../halves.h"
#include "../panels.h"

namespace vlae::masked_conv {

Windows::Windows(const Image& image, const Taps& taps, int64_t channels, int64_t context_channels, bool mirrored) {
  const size_t n = taps.list.size();
  for (size_t t = 0; t < n; ++t) {
    const size_t at = mirrored ? n - 1 - t : t;
    const Tap tap = mirrored ? Tap{-taps.list[at].dy, -taps.list[at].dx} : taps.list[at];
    places_.push_back(taps.places[at]);
    const bool next = !runs_.empty() && runs_.back().dy == tap.dy && runs_.back().dx + runs_.back().taps == tap.dx;
    if (!next) runs_.push_back({tap.dy, tap.dx, 0, static_cast<int64_t>(t) * channels});
    ++runs_.back().taps;
  }
  const int64_t products = static_cast<int64_t>(n) * channels;
  window_ = {image,
             channels,
             runs_.data(),
             static_cast<int>(runs_.size()),
             products,
             context_channels,
             whole_blocks(products + context_channels),
             mirrored ? vlae::masked_conv::mirrored(taps.reach) : taps.reach};
}

TileWeights context_weights(const Tensor& weight, int64_t p, int64_t channels) {
  TileWeights part = {floats(weight), nullptr, {}, {}};
  for (int64_t d = 0; d < channels; ++d) part.from.push_back(d);
  for (int64_t column = 0; column < p; ++column) part.base.push_back(column * channels);
  return part;
}

TileWeights map_weights(const ConvArguments& a, const Windows& windows) {
  const int64_t area = a.taps.kernel * a.taps.kernel;
  TileWeights part = {a.weight, a.live, {}, {}};
  for (const int64_t place : windows.places())
    for (int64_t c = 0; c < a.c_in; ++c) part.from.push_back(c * area + place);
  for (int64_t column = 0; column < a.p; ++column) part.base.push_back(column * a.c_in * area);
  return part;
}

TileWeights mirrored_weights(const ConvArguments& a, const Windows& windows) {
  const int64_t area = a.taps.kernel * a.taps.kernel;
  TileWeights part = {a.weight, a.live, {}, {}};
  for (const int64_t place : windows.places())
    for (int64_t column = 0; column < a.p; ++column) part.from.push_back(column * a.c_in * area + place);
  for (int64_t c = 0; c < a.c_in; ++c) part.base.push_back(c * area);
  return part;
}

TileWeights spread_weights(const ConvArguments& a) {
  const int64_t area = a.taps.kernel * a.taps.kernel;
  TileWeights part = {a.weight, a.live, {}, {}};
  for (int64_t column = 0; column < a.p; ++column) part.from.push_back(column * a.c_in * area);
  for (const int64_t place : a.taps.places)
    for (int64_t c = 0; c < a.c_in; ++c) part.base.push_back(c * area + place);
  return part;
}

TileLayer::TileLayer(const Windows& windows, Activation activation, int64_t out_channels, const std::vector<TileWeights>& parts,
                     const float* bias) {
  const int64_t vecs = vecs_of(activation, out_channels, kTileSide), panels = (vecs + 1) / 2, depth = windows.window().depth;
  weight_.resize(usize(panels * depth * kTileBlock));
  bias_.resize(usize(panels * kTileBlock));
  for (int64_t vec = 0; vec < vecs; ++vec) {
    for (int64_t lane = 0; lane < kTileSide; ++lane) {
      const int64_t column = column_of(activation, out_channels, vec, lane, kTileSide);
      if (column < 0) continue;
      if (bias) bias_[usize(vec * kTileSide + lane)] = bias[column];
      int64_t k = 0;
      for (const TileWeights& part : parts)
        for (const int64_t from : part.from) {
          const int64_t at = from + part.base[usize(column)];
          const int64_t pair = k % kTileBlock / 2,
                        tile = (vec / 2 * depth + k / kTileBlock * kTileBlock) * kTileBlock + vec % 2 * kTileSide * kTileBlock;
          if (!part.live || part.live[at])
            weight_[usize(tile + pair * kTileBlock + 2 * lane + k % 2)] = bfloat16_bits(part.data[at]);
          ++k;
        }
    }
  }
  gather_ = {windows.window(), activation, out_channels, panels, weight_.data(), bias_.data()};
}

}  // namespace vlae::masked_conv
