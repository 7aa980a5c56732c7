// The weight gradient of one band: a matrix product over its pixels. A block is up to kMaxRows neighbouring products (taps x
// channels, side by side in channels_last x) by one plane of columns, in registers while the band's pixels stream by.
#pragma once

#include "../row_blocks.h"
#include "conv.h"

namespace vlae::masked_conv::VLAE_ISA {

using namespace vlae::VLAE_ISA;

// One run per row that dy leaves inside the image; returns how many.
inline int outer_runs(const Outer& o, const Band& band, int64_t dy, Run* runs) {
  const Reach& reach = o.slope.reach;
  const int64_t width = o.slope.image.width, row = width + reach.left + reach.right;
  int n = 0;
  for (int64_t i = 0; i < band.rows; ++i) {
    const int64_t at = band.first + i + dy;
    if (at >= 0 && at < o.slope.image.height) runs[n++] = {i * o.x_row, (i + reach.above) * row + reach.left, width};
  }
  return n;
}

inline void outer_band(const Outer& o, const Band& band, const OuterData& data) noexcept {
  const Slope& slope = o.slope;
  const auto& by_rows = slope.vecs == 2 ? GemmTable<SideBySide, 2, 1>::by_rows : GemmTable<SideBySide, 1, 1>::by_rows;
  for (const Stretch* s = o.stretches; s != o.stretches + o.n_stretches; ++s) {
    const int n_runs = outer_runs(o, band, s->dy, data.runs);
    const int64_t blocks = (s->length + kMaxRows - 1) / kMaxRows;
    for (int64_t plane = 0; plane < slope.planes; ++plane) {
      for (int64_t b = 0; b < blocks; ++b) {
        const int64_t first = s->length * b / blocks, count = s->length * (b + 1) / blocks - first;
        float* block = data.grad_weight + (plane * o.depth + s->k + first) * kPanel;
        by_rows[count - 1]({data.x + s->offset + first, o.x_pixel, slope.pixel}, data.runs, n_runs, true,
                           data.planes + plane * slope.plane_floats, 0, block);
      }
    }
  }
}

}  // namespace vlae::masked_conv::VLAE_ISA
