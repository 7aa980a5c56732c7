// The convolution of one band. Rows of the matrix product are pixels, up to kMaxRows a block; columns are channels, a panel of
// two vectors at a time. What makes it fast: live taps only, neighbouring taps are one run of products, weights that do not
// fit the nearest caches are kept there for a band at a time.
#pragma once

#include "../row_blocks.h"
#include "conv.h"

namespace vlae::masked_conv::VLAE_ISA {

using namespace vlae::VLAE_ISA;

constexpr int64_t kPanelsBytes = 192 << 10;  // of weights that a band's blocks are run over before the next ones

struct PixelRows {
  const float* source[kMaxRows];
  const float* context[kMaxRows];
  const float* cond[kMaxRows];
  float* out[kMaxRows];
  float* sigmoid[kMaxRows];
  const float* residual[kMaxRows];
  float* activated[kMaxRows];
};

inline void locate_pixels(const Gather& g, const GatherData& data, int64_t first, int count, PixelRows& rows) {
  int64_t i = first / g.image.width, j = first % g.image.width;
  for (int r = 0; r < count; ++r) {
    rows.source[r] = data.source + i * g.row + j * g.pixel;
    if (data.context) rows.context[r] = data.context + (first + r) * data.context_pixel;
    if (data.cond) rows.cond[r] = data.cond + (first + r) * data.cond_pixel;
    rows.out[r] = data.out + (first + r) * g.layer.out_channels;
    if (data.sigmoid) rows.sigmoid[r] = data.sigmoid + (first + r) * g.layer.out_channels;
    if (data.residual) rows.residual[r] = data.residual + (first + r) * g.layer.out_channels;
    if (data.activated) rows.activated[r] = data.activated + (first + r) * g.layer.out_channels;
    if (++j == g.image.width) j = 0, ++i;
  }
}

// The parts of the runs that touch the image from some row of first .. last, and those of the context; returns how many.
inline int live_products(const Gather& g, int64_t first, int64_t last, const PixelRows& rows, Product* products) {
  int n = 0;
  for (int part = 0, begin = 0; part < g.n_parts; begin = g.ends[part++]) {
    int from = begin, to = g.ends[part];
    while (from < to && last + g.dy[from] < 0) ++from;
    while (from < to && first + g.dy[to - 1] >= g.image.height) --to;
    if (from < to) products[n++] = {g.runs + from, to - from, true, rows.source};
  }
  for (int part = 0; part < g.n_context_parts; ++part) products[n++] = {g.context_parts + part, 1, true, rows.context};
  return n;
}

inline void gather_band(const Gather& g, const Band& band, const GatherData& data) noexcept {
  const int64_t width = g.image.width, pixels = band.rows * width;
  const int64_t blocks = (pixels + kMaxRows - 1) / kMaxRows;
  const int64_t panels = (g.layer.vecs + kPanelVecs - 1) / kPanelVecs;
  const int64_t fit = kPanelsBytes / (g.layer.depth * kPanel * 4 + 1), sweep = fit < 1 ? 1 : fit;
  PixelRows rows;
  Product products[2 * kMaxParts];
  for (int64_t panel = 0; panel < panels; panel += sweep) {
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = pixels * b / blocks, last = pixels * (b + 1) / blocks - 1;
      const int count = static_cast<int>(last + 1 - first);
      locate_pixels(g, data, first, count, rows);
      const int n = live_products(g, band.first + first / width, band.first + last / width, rows, products);
      run_columns(g.layer, panel, least(panel + sweep, panels),
                  {count, n, products, data.cond ? rows.cond : nullptr, data.residual ? rows.residual : nullptr, rows.out,
                   data.sigmoid ? rows.sigmoid : nullptr, nullptr, data.activated ? rows.activated : nullptr});
    }
  }
}

}  // namespace vlae::masked_conv::VLAE_ISA
