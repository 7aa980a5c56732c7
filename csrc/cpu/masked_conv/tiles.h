// A masked convolution of bfloat16 maps by a processor's matrix tiles, as its kernels see it. Plain data.
//
// A map is [pixel][channel], the pixels of all images one after the other. What a pixel multiplies, its window, is copied side
// by side: the live taps' channels in the order of the packed weights, 0 outside the image, then the pixel's context. So a
// product is as deep as there are live taps, whatever the number of channels, and a number that no live tap reads meets none
// of the weights.
#pragma once

#include <cstdint>

#include "conv.h"

namespace vlae::masked_conv {

constexpr int64_t kTileSide = 16;              // rows and columns of sums in a tile
constexpr int64_t kTileBlock = 2 * kTileSide;  // pixels, columns and products that are taken at a time
constexpr int64_t kTileFloats = kTileSide * kTileSide;
constexpr int64_t kOuterBlocks = 8;  // of pixels that a weight gradient is summed over while its tiles are at hand

using Half = uint16_t;  // the bits of a bfloat16

struct TapRun {  // neighbouring taps of one row
  int64_t dy, dx, taps, k;
};

struct Window {
  Image image;
  int64_t channels;  // of the map
  const TapRun* runs;
  int n_runs;
  int64_t products;  // with the map; those with the context are behind them
  int64_t context_channels;
  int64_t depth;  // of all products, in whole blocks
  Reach reach;    // of the taps
  // Where the channels are whole blocks, so are the products of a tap: a tile reads them from the map itself, with a border of
  // zeros, and no window is copied but that of the context.
  constexpr bool in_place() const { return channels % kTileBlock == 0; }
  constexpr int64_t context_depth() const { return depth - products; }  // in place
};

struct WindowData {
  const Half *map, *context;  // nullptr: no context
};

// out[p] = act(bias + cond + window[p] weights). weight: [panel][block of products][2 tiles][pair of products][column][2].
struct TileGather {
  Window window;
  Activation activation;
  int64_t out_channels;  // C, after the activation
  int64_t panels;        // of two tiles of columns: under a gate the same channels of both halves
  const Half* weight;
  const float* bias;  // [panel][2 tiles of columns]
};

struct TileGatherData {
  WindowData from;
  const Half* cond;                 // nullptr: none
  int64_t cond_image, cond_pixel;   // values from one to the next
  const Half* residual;             // [pixel][C], added after the activation; nullptr: none
  Half *out, *sigmoid, *activated;  // nullptr: not kept
  float* sums;  // in place of all of them: [pixel][C], not rounded, of a layer without an activation; nullptr: none
};

// The gradient of the pre-activation, [pixel][P], from that of the output.
struct TileSlope {
  Activation activation;
  int64_t channels;                  // C, after the gate
  const Half *grad, *out, *sigmoid;  // what the activation has no use for may be nullptr
  Half* slope;                       // nullptr: not kept
  float* sums;                       // [P], of the pixels; nullptr: not wanted
};

// sums[column][product] += over pixels of slope[p][column] * window[p][product], in tiles: [column tile][product tile][16][16]
struct TileOuter {
  Window window;
  int64_t columns;  // P
};

struct TileOuterData {
  WindowData from;
  const Half* slope;
  float* sums;
};

constexpr int64_t whole_blocks(int64_t n) { return (n + kTileBlock - 1) / kTileBlock * kTileBlock; }
constexpr int64_t outer_halves(const TileOuter& o) {
  return kTileBlock * (o.window.depth + kOuterBlocks * (o.window.depth + whole_blocks(o.columns)));
}

// Halves of a padded row, and those of a band that tiles read in place: the last block of pixels may read behind it.
constexpr int64_t padded_row(const Window& w) { return (w.reach.left + w.image.width + w.reach.right) * w.channels; }
constexpr int64_t band_halves(const Window& w, int64_t rows) {
  const int64_t halo = w.reach.above + w.reach.below;
  return whole_blocks((rows + halo + 1) * padded_row(w) + kTileBlock * w.channels);
}
constexpr int64_t in_place_halves(const Window& w, int64_t rows) {
  return band_halves(w, rows) + kTileBlock * w.context_depth();
}

// Each runs over the pixels first .. last - 1, or over a band of image n. The scratch memory of gather holds a block of
// windows, that of gather_in_place in_place_halves() and at first the padded band, that of outer outer_halves(); all begin at a
// line of a cache.
struct TileKernels {
  void (*gather)(const TileGather&, const TileGatherData&, int64_t first, int64_t last, Half* scratch) noexcept;
  void (*gather_in_place)(const TileGather&, const TileGatherData&, int64_t n, const Band&, Half* scratch) noexcept;
  void (*slope)(const TileSlope&, int64_t first, int64_t last) noexcept;
  void (*outer)(const TileOuter&, const TileOuterData&, int64_t first, int64_t last, Half* scratch) noexcept;
};

}  // namespace vlae::masked_conv
