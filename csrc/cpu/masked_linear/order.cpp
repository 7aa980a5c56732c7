#include "order.h"

#include <algorithm>
#include <numeric>

#include <torch/csrc/stable/ops.h>

#include "../../narrow.h"
#include "../../tensors.h"

namespace vlae::masked_linear {

namespace {

constexpr int64_t kPieces = 8;
constexpr int64_t kGrain = 1 << 14;  // elements

template <typename T>
void gather(const T* from, int64_t stride, const std::vector<int64_t>* rows, const std::vector<int64_t>* columns,
            const Tensor& to) {
  const int64_t width = to.dim() == 2 ? to.size(1) : 1;
  T* out = to.mutable_data_ptr<T>();
  torch::stable::parallel_for(0, to.size(0), kGrain / std::max<int64_t>(width, 1) + 1, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const T* row = from + (rows ? (*rows)[usize(r)] : r) * stride;
      for (int64_t c = 0; c < width; ++c) out[r * width + c] = row[columns ? (*columns)[usize(c)] : c];
    }
  });
}

}  // namespace

std::optional<Order> order_of(const Tensor& degrees) {
  const int64_t* d = degrees.const_data_ptr<int64_t>();
  const int64_t size = degrees.size(0);
  int64_t pieces = 1;
  for (int64_t i = 1; i < size; ++i) pieces += d[i] < d[i - 1];
  if (pieces <= kPieces) return std::nullopt;
  Order order;
  order.index.resize(usize(size));
  order.inverse.resize(usize(size));
  std::iota(order.index.begin(), order.index.end(), int64_t{0});
  std::stable_sort(order.index.begin(), order.index.end(), [&](int64_t a, int64_t b) { return d[a] < d[b]; });
  for (int64_t i = 0; i < size; ++i) order.inverse[usize(order.index[usize(i)])] = i;
  return order;
}

Tensor gathered(const Tensor& tensor, const std::vector<int64_t>* rows, const std::vector<int64_t>* columns) {
  Tensor to = new_like("masked_linear", tensor, {tensor.sizes().begin(), tensor.sizes().end()});
  const int64_t stride = tensor.dim() == 2 ? tensor.size(1) : 1;
  if (tensor.scalar_type() == torch::headeronly::ScalarType::Float)
    gather(tensor.const_data_ptr<float>(), stride, rows, columns, to);
  else
    gather(tensor.const_data_ptr<int64_t>(), stride, rows, columns, to);
  return to;
}

}  // namespace vlae::masked_linear
