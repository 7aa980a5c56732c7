// One declaration per op; each is defined in its family's folder.
#pragma once

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/tensor.h>

namespace vlae {

using torch::stable::Tensor;

std::tuple<Tensor, Tensor> masked_conv(Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> cond,
                                       std::vector<int64_t> taps, std::optional<Tensor> live, std::string activation,
                                       bool keep_sigmoid, std::string isa);
std::vector<Tensor> masked_conv_backward(Tensor grad, std::optional<Tensor> out, std::optional<Tensor> sigmoid, Tensor x,
                                         Tensor weight, std::vector<int64_t> taps, std::optional<Tensor> live,
                                         std::string activation, std::vector<int64_t> needs, bool cond_map, std::string isa);
Tensor pixelcnn_pack(std::vector<Tensor> weights, std::vector<int64_t> plan, std::string isa);
std::tuple<Tensor, Tensor> pixelcnn_sample(Tensor noise, Tensor packed, std::vector<int64_t> plan, std::optional<Tensor> context,
                                           std::optional<Tensor> known_mask, std::optional<Tensor> known, double temperature);

// x [B, D] and log_det [B].
std::tuple<Tensor, Tensor> made_inverse(Tensor eps, std::vector<Tensor> weights, std::vector<Tensor> biases,
                                        std::vector<Tensor> degrees, std::optional<Tensor> cond, std::string activation,
                                        std::string scale, std::string isa);

Tensor masked_linear(Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> in_degrees,
                     std::optional<Tensor> out_degrees, std::optional<Tensor> adjacency, std::string activation, std::string isa);
// Gradients of x, weight and bias; without rows where they are not needed.
std::tuple<Tensor, Tensor, Tensor> masked_linear_backward(Tensor grad, std::optional<Tensor> y, Tensor x, Tensor weight,
                                                          std::optional<Tensor> in_degrees, std::optional<Tensor> out_degrees,
                                                          std::optional<Tensor> adjacency, std::string activation, bool needs_x,
                                                          bool needs_weight, bool needs_bias, std::string isa);

}  // namespace vlae
