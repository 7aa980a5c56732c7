// From the gradient of a layer's output to that of its pre-activation, for one instruction set. One pass over kLanes rows of
// many columns gives g, its transpose and its sum while a square of it is in registers.
#include "../activate.h"
#include "../transpose.h"
#include "kernels.h"

namespace vlae::masked_linear::VLAE_ISA {

using namespace vlae::VLAE_ISA;

namespace {

// g of rows first .. first + rows - 1 of a vector of columns; with Transposes, `square` has them, and 0 in the rows behind.
// Returns the sum of each column.
template <Activation Function, bool Transposes>
Vec slopes_of(const Slopes& s, const Columns& columns, int64_t first, int64_t rows, Vec (&square)[kLanes]) {
  const int64_t g_stride = s.g_stride ? s.g_stride : s.outputs;
  Vec total = {};
  for (int64_t r = 0; r < (Transposes ? kLanes : rows); ++r) {
    Vec g = {};
    if (r < rows) {
      const int64_t row = (first + r) * s.outputs;
      g = load_at(s.grad + row, s.order, columns.first, columns.count);
      if (Function != Activation::none)
        g = times_slope(Function, g, load_at(s.y + row, s.order, columns.first, columns.count));
      if (s.g) store_some(s.g + (first + r) * g_stride + columns.first, g, columns.count);
      total += g;
    }
    if (Transposes) square[r] = g;
  }
  return total;
}

template <Activation Function, bool Transposes>
void slopes_and_sums(const Slopes& s, const Columns& columns) {
  Vec sums[kSlopeVecs] = {}, lost[kSlopeVecs] = {};  // Kahan: a batch may be long
  for (int64_t first = 0; first < s.batch; first += kLanes)
    for (int64_t v = 0; v * kLanes < columns.count; ++v) {
      const Columns own = {columns.first + v * kLanes, least(kLanes, columns.count - v * kLanes)};
      Vec square[kLanes];
      const Vec of_rows = slopes_of<Function, Transposes>(s, own, first, least(kLanes, s.batch - first), square);
      const Vec term = of_rows - lost[v], next = sums[v] + term;
      lost[v] = (next - sums[v]) - term;
      sums[v] = next;
      if (!Transposes) continue;
      transpose(square);
      for (int64_t c = 0; c < own.count; ++c)  // rows are padded to whole vectors
        store(s.transposed + (own.first + c) * s.transposed_stride + first, square[c]);
    }
  for (int64_t v = 0; s.sums && v * kLanes < columns.count; ++v)
    store_at(s.sums, s.order, columns.first + v * kLanes, sums[v], least(kLanes, columns.count - v * kLanes));
}

template <Activation Function>
void slopes_by(const Slopes& s, const Columns& columns) {
  (s.transposed ? slopes_and_sums<Function, true> : slopes_and_sums<Function, false>)(s, columns);
}

}  // namespace

void slopes(const Slopes& s, const Columns& columns) noexcept {
  switch (s.activation) {
    case Activation::none: return slopes_by<Activation::none>(s, columns);
    case Activation::relu: return slopes_by<Activation::relu>(s, columns);
    case Activation::elu: return slopes_by<Activation::elu>(s, columns);
    case Activation::tanh: return slopes_by<Activation::tanh>(s, columns);
    case Activation::gate:
    case Activation::sigmoid:
    case Activation::softplus:
    case Activation::silu:
    case Activation::gelu:
    case Activation::gelu_tanh:
    case Activation::glu: break;  // no layer has them
  }
}

}  // namespace vlae::masked_linear::VLAE_ISA
