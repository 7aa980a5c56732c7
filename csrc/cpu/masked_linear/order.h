// Units in no order hide the triangle: they are numbered by degree, and the kernels are told where in memory each is.
#pragma once

#include <vector>

#include <torch/csrc/stable/tensor.h>

namespace vlae::masked_linear {

using torch::stable::Tensor;

// The places of the units by degree. Empty where the degrees are sorted, or in a few sorted pieces (the parameters of a
// MADE): nothing is gained there.
std::vector<int32_t> order_of(const std::vector<int32_t>& degrees);
std::vector<int32_t> in_order(const std::vector<int32_t>& degrees, const std::vector<int32_t>& order);
// The number of the unit at each place.
std::vector<int32_t> inverse_of(const std::vector<int32_t>& order);
// tensor[rows][:, columns], of float32 and of one (columns alone) or two dimensions; an empty order: all as they are.
Tensor gathered(const Tensor& tensor, const std::vector<int32_t>& rows, const std::vector<int32_t>& columns);

}  // namespace vlae::masked_linear
