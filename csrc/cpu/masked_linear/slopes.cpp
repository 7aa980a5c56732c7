// From the gradient of a layer's output to that of its pre-activation, for one instruction set. One pass over a square of
// kLanes x kLanes gives g, its transpose and its sum while it is in registers.
#include "../activate.h"
#include "../transpose.h"
#include "kernels.h"

namespace vlae::masked_linear::VLAE_ISA {

using namespace vlae::VLAE_ISA;

void slopes(const Slopes& s, const Columns& columns) noexcept {
  Vec sum = {}, lost = {};  // Kahan: a batch may be long
  for (int64_t first = 0; first < s.batch; first += kLanes) {
    const int64_t rows = least(kLanes, s.batch - first);
    Vec square[kLanes] = {}, total = {};
    for (int64_t r = 0; r < rows; ++r) {
      const int64_t row = (first + r) * s.outputs;
      Vec g = load_at(s.grad + row, s.order, columns.first, columns.count);
      if (s.activation != Activation::none)
        g = times_slope(s.activation, g, load_at(s.y + row, s.order, columns.first, columns.count));
      if (s.g) store_some(s.g + row + columns.first, g, columns.count);
      square[r] = g;
      total += g;
    }
    const Vec term = total - lost, next = sum + term;
    lost = (next - sum) - term;
    sum = next;
    if (!s.transposed) continue;
    transpose(square);
    for (int64_t c = 0; c < columns.count; ++c)  // rows are padded to whole vectors
      store(s.transposed + (columns.first + c) * s.transposed_stride + first, square[c]);
  }
  if (s.sums) store_at(s.sums, s.order, columns.first, sum, columns.count);
}

}  // namespace vlae::masked_linear::VLAE_ISA
