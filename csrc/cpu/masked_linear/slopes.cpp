// From the gradient of a layer's output to that of its pre-activation, for one instruction set. One pass over a square of
// kLanes x kLanes gives g, its transpose and its sum while it is in registers. A few squares lie beside one another: what is
// read of a row then fills more than a line.
#include "../activate.h"
#include "../transpose.h"
#include "kernels.h"

namespace vlae::masked_linear::VLAE_ISA {

using namespace vlae::VLAE_ISA;

namespace {

// g of rows first .. first + rows - 1 of a vector of columns; rows behind them are 0. Returns the sum of each column.
Vec slopes_of(const Slopes& s, const Columns& columns, int64_t first, int64_t rows, Vec (&square)[kLanes]) {
  Vec total = {};
  for (int64_t r = 0; r < kLanes; ++r) {
    square[r] = Vec{};
    if (r >= rows) continue;
    const int64_t row = (first + r) * s.outputs;
    Vec g = load_at(s.grad + row, s.order, columns.first, columns.count);
    if (s.activation != Activation::none)
      g = times_slope(s.activation, g, load_at(s.y + row, s.order, columns.first, columns.count));
    if (s.g) store_some(s.g + row + columns.first, g, columns.count);
    square[r] = g;
    total += g;
  }
  return total;
}

}  // namespace

void slopes(const Slopes& s, const Columns& columns) noexcept {
  Vec sums[kSlopeVecs] = {}, lost[kSlopeVecs] = {};  // Kahan: a batch may be long
  for (int64_t first = 0; first < s.batch; first += kLanes) {
    const int64_t rows = least(kLanes, s.batch - first);
    for (int64_t v = 0; v * kLanes < columns.count; ++v) {
      const Columns own = {columns.first + v * kLanes, least(kLanes, columns.count - v * kLanes)};
      Vec square[kLanes];
      const Vec term = slopes_of(s, own, first, rows, square) - lost[v], next = sums[v] + term;
      lost[v] = (next - sums[v]) - term;
      sums[v] = next;
      if (!s.transposed) continue;
      transpose(square);
      for (int64_t c = 0; c < own.count; ++c)  // rows are padded to whole vectors
        store(s.transposed + (own.first + c) * s.transposed_stride + first, square[c]);
    }
  }
  for (int64_t v = 0; s.sums && v * kLanes < columns.count; ++v)
    store_at(s.sums, s.order, columns.first + v * kLanes, sums[v], least(kLanes, columns.count - v * kLanes));
}

}  // namespace vlae::masked_linear::VLAE_ISA
