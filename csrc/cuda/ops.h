// One declaration per op of the CUDA library; each is defined in its family's folder.
#pragma once

#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include <torch/csrc/stable/tensor.h>

namespace vlae::cuda {

using torch::stable::Tensor;

// On the CPU: how the kernels walk a MADE, as tables that are to be put on the GPU, and a header that says what is in them.
std::tuple<Tensor, Tensor> made_plan(std::vector<Tensor> degrees);
// Of one step or more: x [S, B, D], of each its own, and log_det [B] of all.
std::tuple<Tensor, Tensor> made_inverse(Tensor eps, std::vector<Tensor> weights, std::vector<Tensor> biases, Tensor tables,
                                        Tensor header, std::optional<Tensor> cond, std::string activation, std::string scale);

// On the CPU, in float32: the weights in the layout of the numbers they are to be kept in (float32, bfloat16 or float16), and a
// header that says which plan and numbers they are for.
std::tuple<Tensor, Tensor> pixelcnn_pack(std::vector<Tensor> weights, std::vector<int64_t> plan, std::string number);
std::tuple<Tensor, Tensor> pixelcnn_sample(Tensor noise, Tensor packed, Tensor header, std::vector<int64_t> plan,
                                           std::optional<Tensor> context, std::optional<Tensor> known_mask,
                                           std::optional<Tensor> known, double temperature);

}  // namespace vlae::cuda
