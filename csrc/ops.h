// One declaration per op; each is defined in its family's folder.
#pragma once

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/tensor.h>

namespace vlae {

using torch::stable::Tensor;

Tensor pixelcnn_pack(std::vector<Tensor> weights, std::vector<int64_t> plan, std::string isa);
std::tuple<Tensor, Tensor> pixelcnn_sample(Tensor noise, Tensor packed, std::vector<int64_t> plan, std::optional<Tensor> context,
                                           std::optional<Tensor> known_mask, std::optional<Tensor> known, double temperature);

// x [B, D] and log_det [B].
std::tuple<Tensor, Tensor> made_inverse(Tensor eps, std::vector<Tensor> weights, std::vector<Tensor> biases,
                                        std::vector<Tensor> degrees, std::optional<Tensor> cond, std::string activation,
                                        std::string isa);

}  // namespace vlae
