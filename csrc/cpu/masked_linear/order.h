// Units in no order hide the triangle: the layer is computed on copies whose units are sorted by degree.
#pragma once

#include <optional>
#include <vector>

#include <torch/csrc/stable/tensor.h>

namespace vlae::masked_linear {

using torch::stable::Tensor;

struct Order {
  std::vector<int64_t> index, inverse;  // of the sorted units; where each unit went
};

// None where the degrees are sorted, or in a few sorted pieces (the parameters of a MADE): nothing is gained there.
std::optional<Order> order_of(const Tensor& degrees);
// tensor[rows][:, columns], of int64 or float32 and of one (rows alone) or two dimensions; nullptr: all.
Tensor gathered(const Tensor& tensor, const std::vector<int64_t>* rows, const std::vector<int64_t>* columns = nullptr);

}  // namespace vlae::masked_linear
