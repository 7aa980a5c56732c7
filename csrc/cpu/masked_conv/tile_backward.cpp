// The backward op on bfloat16 maps by matrix tiles. The slope of the activation goes to memory in bfloat16, where it is the
// gradient of a cond that is a map; the gradients of maps and of weights are products with it.
#include <utility>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "tile_grad_x.h"
#include "tile_sums.h"

namespace vlae::masked_conv {
namespace {

constexpr const char* kOp = "masked_conv_tiles_backward";

const Half* check_like_grad(const std::string& name, const std::optional<Tensor>& tensor, bool wanted, const ConvArguments& a) {
  VLAE_CHECK(!wanted || tensor, kOp, name, "be given with this activation", "None");
  return wanted ? check_map(kOp, name, tensor, sizes_of(a, a.c)) : nullptr;
}

// x, context and a cond that is a map have gradients in bfloat16; weight, bias, context_weight and a cond that is a vector in
// float32.
Tensor new_gradient(size_t index, const ConvArguments& a, const Tensor& weight, bool cond_map, int64_t context_channels) {
  const auto floats_of = [&](const std::vector<int64_t>& sizes) {
    Tensor made = new_like(kOp, weight, sizes);
    torch::stable::zero_(made);  // what no pixel adds to, and what dead weights keep
    return made;
  };
  if (index == 0) return new_image(a, a.c_in, ScalarType::BFloat16);
  if (index == 3 && cond_map) return new_image(a, a.p, ScalarType::BFloat16);
  if (index == 4) return new_image(a, context_channels, ScalarType::BFloat16);
  if (index == 1) return floats_of({weight.sizes().begin(), weight.sizes().end()});
  if (index == 2) return floats_of({a.p});
  return floats_of(index == 3 ? std::vector{a.batch, a.p} : std::vector{a.p, context_channels});
}

std::vector<Tensor> backward(Tensor grad, std::optional<Tensor> out, std::optional<Tensor> sigmoid, Tensor x, Tensor weight,
                             std::vector<int64_t> taps, std::optional<Tensor> live, std::string activation,
                             std::vector<int64_t> needs, bool cond_map, std::optional<Tensor> context,
                             std::optional<Tensor> context_weight, bool residual) {
  const TileKernels kernels = tile_kernels_for(kOp);
  const ConvArguments a = check_conv(kOp, x, weight, taps, live, activation, ScalarType::BFloat16);
  const int64_t context_channels = check_context(kOp, context, context_weight, a, ScalarType::BFloat16);
  TileSlope slope = {a.activation, a.c, check_map(kOp, "grad", grad, sizes_of(a, a.c)), nullptr, nullptr, nullptr, nullptr};
  slope.out = check_like_grad("out", out, a.activation != Activation::none, a);
  slope.sigmoid = check_like_grad("sigmoid", sigmoid, a.activation == Activation::gate, a);
  check_residual(kOp, residual, a);
  VLAE_CHECK(needs.size() == 6, kOp, "needs", "have 6 entries", needs.size());
  VLAE_CHECK(context || (!needs[4] && !needs[5]), kOp, "context", "be given where its gradients are wanted", "None");
  std::vector<Tensor> grads;
  std::optional<Tensor> to[6];
  for (size_t i = 0; i < 6; ++i)
    if (needs[i]) grads.push_back(*(to[i] = new_gradient(i, a, weight, cond_map, context_channels)));
  if (grad.numel() == 0) {
    for (Tensor& each : grads) torch::stable::zero_(each);
    return grads;
  }

  std::vector<Tensor> memory;  // of the slope, where it is no gradient that is wanted
  if (to[3] && cond_map) {
    slope.slope = halves_of_new(*to[3]);
  } else if (a.activation != Activation::none) {
    memory.push_back(new_image(a, a.p, ScalarType::BFloat16));
    slope.slope = halves_of_new(memory[0]);
  }
  ColumnSums sums(kOp, a);
  float* bias = to[2] ? to[2]->mutable_data_ptr<float>() : nullptr;
  float* cond = to[3] && !cond_map ? to[3]->mutable_data_ptr<float>() : nullptr;
  if (slope.slope || bias || cond) sums.run(kernels, slope, bias || cond);
  if (bias || cond) sums.finish(bias, cond);
  const Half* slopes = slope.slope ? slope.slope : slope.grad;

  if (to[0]) run_grad_x(kOp, a, kernels, slopes, residual ? slope.grad : nullptr, halves_of_new(*to[0]));
  if (to[1] || to[5]) {
    const Windows windows(a.image, a.taps, a.c_in, to[5] ? context_channels : 0);
    OuterSums outer(kOp, a, windows);
    outer.run(kernels, {halves(x), to[5] ? halves(*context) : nullptr}, slopes);
    if (to[1]) outer.finish(map_weights(a, windows), 0, to[1]->mutable_data_ptr<float>());
    if (to[5])
      outer.finish(context_weights(*context_weight, a.p, context_channels), windows.window().products,
                   to[5]->mutable_data_ptr<float>());
  }
  if (to[4]) {  // a convolution of the slope by the context's weight, transposed
    const Windows windows(a.image, own_pixel(), a.p, 0);
    TileWeights transposed = context_weights(*context_weight, a.p, context_channels);
    std::swap(transposed.from, transposed.base);
    const TileLayer layer(windows, Activation::none, context_channels, {transposed}, nullptr);
    TileGatherData data = {};
    data.from.map = slopes, data.out = halves_of_new(*to[4]);
    run_gather(kOp, a, kernels, layer.gather(), data);
  }
  return grads;
}

}  // namespace
}  // namespace vlae::masked_conv

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) {
  m.def(
      "masked_conv_tiles_backward(Tensor grad, Tensor? out, Tensor? sigmoid, Tensor x, Tensor weight, int[] taps, "
      "Tensor? live, str activation, int[] needs, bool cond_map, Tensor? context, Tensor? context_weight, bool residual) "
      "-> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) {
  m.impl("masked_conv_tiles_backward", TORCH_BOX(&vlae::masked_conv::backward));
}
