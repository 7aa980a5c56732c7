#include "order.h"

#include <algorithm>

#include <torch/csrc/stable/ops.h>

#include "../../narrow.h"
#include "../../tensors.h"

namespace vlae::masked_linear {

namespace {

constexpr int64_t kPieces = 8;
constexpr int64_t kGrain = 1 << 14;  // elements

}  // namespace

std::vector<int32_t> order_of(const std::vector<int32_t>& degrees) {
  int64_t pieces = 1;
  for (size_t i = 1; i < degrees.size(); ++i) pieces += degrees[i] < degrees[i - 1];
  if (pieces <= kPieces) return {};
  std::vector<int64_t> keys(degrees.size());  // the degree, then the place: one integer to compare
  for (size_t i = 0; i < degrees.size(); ++i) keys[i] = int64_t{degrees[i]} * (int64_t{1} << 31) + static_cast<int64_t>(i);
  std::sort(keys.begin(), keys.end());
  std::vector<int32_t> order(degrees.size());
  for (size_t i = 0; i < keys.size(); ++i) order[i] = static_cast<int32_t>(keys[i] & ((int64_t{1} << 31) - 1));
  return order;
}

std::vector<int32_t> in_order(const std::vector<int32_t>& degrees, const std::vector<int32_t>& order) {
  std::vector<int32_t> sorted(order.size());
  for (size_t i = 0; i < order.size(); ++i) sorted[i] = degrees[usize(order[i])];
  return sorted;
}

std::vector<int32_t> inverse_of(const std::vector<int32_t>& order) {
  std::vector<int32_t> inverse(order.size());
  for (size_t i = 0; i < order.size(); ++i) inverse[usize(order[i])] = static_cast<int32_t>(i);
  return inverse;
}

// A row is gathered while it is in the nearest cache; columns of panels, one panel after the other, would fetch it each time.
Tensor gathered(const Tensor& tensor, const std::vector<int32_t>& rows, const std::vector<int32_t>& columns) {
  if (rows.empty() && columns.empty()) return tensor;
  Tensor to = new_like("masked_linear", tensor, {tensor.sizes().begin(), tensor.sizes().end()});
  const int64_t width = tensor.size(tensor.dim() - 1), count = tensor.dim() == 2 ? tensor.size(0) : 1;
  const float* from = tensor.const_data_ptr<float>();
  float* out = to.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, count, kGrain / std::max<int64_t>(width, 1) + 1, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const float* row = from + (rows.empty() ? r : rows[usize(r)]) * width;
      if (columns.empty())
        std::copy_n(row, width, out + r * width);
      else
        for (int64_t c = 0; c < width; ++c) out[r * width + c] = row[columns[usize(c)]];
    }
  });
  return to;
}

}  // namespace vlae::masked_linear
