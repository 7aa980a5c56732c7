// From the gradient of a layer's output to that of its pre-activation, for one instruction set. One pass over
// the rows of many columns gives g and its sum.
#include "../activate.h"
#include "kernels.h"

namespace vlae::masked_linear::VLAE_ISA {

using namespace vlae::VLAE_ISA;

namespace {

// Kahan's sums of columns: a batch may be long.
struct ColumnSums {
  Vec sum[kSlopeVecs] = {}, lost[kSlopeVecs] = {};

  void add(int64_t v, Vec of_rows) {
    const Vec term = of_rows - lost[v], next = sum[v] + term;
    lost[v] = (next - sum[v]) - term;
    sum[v] = next;
  }
};

template <Activation Function>
Vec slope(const Slopes& s, int64_t row, const Columns& columns) {
  const Vec grad = load_at(s.grad + row * s.outputs, s.order, columns.first, columns.count);
  if (Function == Activation::none) return grad;
  return times_slope(Function, grad, load_at(s.y + row * s.outputs, s.order, columns.first, columns.count));
}

Columns vector_of(const Columns& columns, int64_t v) {
  return {columns.first + v * kLanes, least(kLanes, columns.count - v * kLanes)};
}

// Row by row: memory is read and written in long stretches. Whole vectors of outputs whose numbers are their places.
template <Activation Function, bool Writes>
void add_plain_rows(const Slopes& s, const Columns& columns, int64_t first, int64_t rows, Vec* of_rows) {
  for (int64_t r = first; r < first + rows; ++r) {
    const float* grad = s.grad + r * s.outputs + columns.first;
    const float* y = Function == Activation::none ? nullptr : s.y + r * s.outputs + columns.first;
    float* to = Writes ? s.g + r * s.g_stride + columns.first : nullptr;
    for (int64_t i = 0; i + kLanes <= columns.count; i += kLanes, ++of_rows) {
      const Vec g = Function == Activation::none ? load(grad + i) : times_slope(Function, load(grad + i), load(y + i));
      if (Writes) store(to + i, g);
      *of_rows += g;
    }
    of_rows -= columns.count / kLanes;
  }
}

template <Activation Function>
void add_rows(const Slopes& s, const Columns& columns, int64_t first, int64_t rows, ColumnSums& sums) {
  const int64_t vecs = (columns.count + kLanes - 1) / kLanes, plain = s.order ? 0 : columns.count / kLanes;
  Vec of_rows[kSlopeVecs];
  for (int64_t v = 0; v < vecs; ++v) of_rows[v] = Vec{};
  if (plain > 0) (s.g ? add_plain_rows<Function, true> : add_plain_rows<Function, false>)(s, columns, first, rows, of_rows);
  for (int64_t r = first; r < first + rows; ++r)
    for (int64_t v = plain; v < vecs; ++v) {
      const Columns own = vector_of(columns, v);
      const Vec g = slope<Function>(s, r, own);
      if (s.g) store_some(s.g + r * s.g_stride + own.first, g, own.count);
      of_rows[v] += g;
    }
  for (int64_t v = 0; v < vecs; ++v) sums.add(v, of_rows[v]);
}

template <Activation Function>
void slopes_by(const Slopes& s, const Columns& columns) {
  ColumnSums sums;
  for (int64_t first = 0; first < s.batch; first += kLanes)
    add_rows<Function>(s, columns, first, least(kLanes, s.batch - first), sums);
  for (int64_t v = 0; s.sums && v * kLanes < columns.count; ++v) {
    const Columns own = vector_of(columns, v);
    store_at(s.sums, s.order, own.first, sums.sum[v], own.count);
  }
}

}  // namespace

void slopes(const Slopes& s, const Columns& columns) noexcept {
  with_function(s.activation, [&]<Activation Function>() { slopes_by<Function>(s, columns); });
}

}  // namespace vlae::masked_linear::VLAE_ISA
