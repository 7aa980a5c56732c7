// The forward op on bfloat16 maps by matrix tiles. Weights and biases come in as float32; sums are float32.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "tile_arguments.h"

namespace vlae::masked_conv {
namespace {

constexpr const char* kOp = "masked_conv_tiles";

struct Cond {
  const Half* data;
  int64_t image, pixel;
};

Cond check_cond(const std::optional<Tensor>& cond, const ConvArguments& a) {
  if (!cond) return {nullptr, 0, 0};
  if (cond->dim() == 2) return {check_map(kOp, "cond", cond, {a.batch, a.p}), a.p, 0};
  std::vector<int64_t> sizes = sizes_of(a, a.p);
  const bool one = cond->dim() == 4 && cond->size(0) == 1;
  if (one) sizes[0] = 1;
  return {check_map(kOp, "cond", cond, sizes), one ? 0 : area_of(a) * a.p, a.p};
}

std::tuple<Tensor, Tensor, Tensor> forward(Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> cond,
                                           std::vector<int64_t> taps, std::optional<Tensor> live, std::string activation,
                                           bool with_sigmoid, std::optional<Tensor> context,
                                           std::optional<Tensor> context_weight, bool residual, bool with_activated) {
  const TileKernels kernels = tile_kernels_for(kOp);
  const ConvArguments a = check_conv(kOp, x, weight, taps, live, activation, ScalarType::BFloat16);
  if (bias) {
    check_float(kOp, "bias", *bias);
    check_shape(kOp, "bias", *bias, {a.p});
  }
  const Cond condition = check_cond(cond, a);
  const int64_t context_channels = check_context(kOp, context, context_weight, a, ScalarType::BFloat16);
  VLAE_CHECK(!with_sigmoid || a.activation == Activation::gate, kOp, "with_sigmoid", "be false without activation gate",
             "true");
  check_residual(kOp, residual, a);
  const int64_t none = 0;
  Tensor out = new_image(a, a.c, ScalarType::BFloat16);
  Tensor sigmoid = with_sigmoid ? new_image(a, a.c, ScalarType::BFloat16) : torch::stable::new_empty(x, {&none, 1});
  Tensor activated = with_activated ? new_image(a, a.c, ScalarType::BFloat16) : torch::stable::new_empty(x, {&none, 1});
  if (out.numel() == 0) return {out, sigmoid, activated};
  const Windows windows(a.image, a.taps, a.c_in, context_channels);
  std::vector<TileWeights> parts = {map_weights(a, windows)};
  if (context) parts.push_back(context_weights(*context_weight, a.p, context_channels));
  const TileLayer layer(windows, a.activation, a.c, parts, bias ? floats(*bias) : nullptr);
  TileGatherData data = {};
  data.from = {halves(x), context ? halves(*context) : nullptr};
  data.cond = condition.data, data.cond_image = condition.image, data.cond_pixel = condition.pixel;
  data.residual = residual ? halves(x) : nullptr;
  data.out = halves_of_new(out);
  data.sigmoid = with_sigmoid ? halves_of_new(sigmoid) : nullptr;
  data.activated = with_activated ? halves_of_new(activated) : nullptr;
  run_gather(kOp, a, kernels, layer.gather(), data);
  return {out, sigmoid, activated};
}

}  // namespace
}  // namespace vlae::masked_conv

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) {
  m.def(
      "masked_conv_tiles(Tensor x, Tensor weight, Tensor? bias, Tensor? cond, int[] taps, Tensor? live, str activation, "
      "bool with_sigmoid, Tensor? context, Tensor? context_weight, bool residual, bool with_activated) "
      "-> (Tensor out, Tensor sigmoid, Tensor activated)");
}

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) { m.impl("masked_conv_tiles", TORCH_BOX(&vlae::masked_conv::forward)); }
