// The forward op: one pass over the image, bands of it shared out among threads.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../workers.h"
#include "arguments.h"

namespace vlae::masked_conv {
namespace {

constexpr const char* kOp = "masked_conv";
constexpr int64_t kBandFloats = 16 << 10;  // of a padded band

struct Cond {
  const float* data;
  int64_t image, pixel, row;  // floats from one to the next
};

struct Context {
  const float *data, *weight;  // nullptr: none
  int64_t channels;
};

Cond check_cond(const std::optional<Tensor>& cond, const ConvArguments& a) {
  if (!cond) return {nullptr, 0, 0, 0};
  check_float(kOp, "cond", *cond);
  const std::vector<int64_t> vector = {a.batch, a.p}, map = {a.batch, a.image.height, a.image.width, a.p};
  const std::vector<int64_t> one = {1, a.image.height, a.image.width, a.p};  // for all images
  VLAE_CHECK(has_shape(*cond, vector) || has_shape(*cond, map) || has_shape(*cond, one), kOp, "cond",
             "be " + sizes_text(vector) + ", " + sizes_text(map) + " or " + sizes_text(one), shape_text(cond->sizes()));
  if (cond->dim() == 2) return {floats(*cond), a.p, 0, 0};
  const int64_t of_image = a.image.height * a.image.width * a.p;
  return {floats(*cond), has_shape(*cond, map) ? of_image : 0, a.p, a.image.width * a.p};
}

// Where the results go; nullptr for what is not wanted.
struct Results {
  float *out, *sigmoid, *activated;
};

void run_forward(const ConvArguments& a, const Kernels& kernels, const float* bias, const Cond& cond, const Context& context,
                 bool residual, const Results& to) {
  const Reach& reach = a.taps.reach;
  const int64_t row = (a.image.width + reach.left + reach.right) * a.c_in;
  Products products = forward_products(a.taps, a.c_in, a.p, row);
  cut_parts(products);
  Gather gather = gather_of(products, {a.activation, a.c, 0, 0, nullptr, nullptr}, a.image, a.c_in, row);
  const std::vector<Run> parts = context_parts(static_cast<int64_t>(products.from.size()), context.channels);
  gather.context_parts = parts.data(), gather.n_context_parts = static_cast<int>(parts.size());
  const Weights weights = {a.weight, a.live, context.weight, context.channels};
  const std::vector<float> packed = pack(weights, products, gather.layer, bias, kernels.lanes);
  const int64_t halo = reach.above + reach.below;
  const Bands bands = cut_bands(a.batch, a.image, row, halo, kBandFloats);
  const Tasks tasks = {bands.count(), bands.count(), (bands.rows + halo) * row};
  run_tasks(kOp, tasks, [&](int64_t task, const Worker& worker) {
    float* scratch = worker.scratch;
    const int64_t n = task / bands.per_image, pixels = a.image.height * a.image.width;
    const Band band = band_at(bands, a.image, task);
    pad_band(a.x + n * pixels * a.c_in, a.image, a.c_in, reach, band, scratch);
    const int64_t first = n * pixels + band.first * a.image.width, at = first * a.c;
    GatherData data = {scratch + reach.above * row + reach.left * a.c_in,
                       cond.data ? cond.data + n * cond.image + band.first * cond.row : nullptr, cond.pixel, to.out + at,
                       to.sigmoid ? to.sigmoid + at : nullptr};
    if (context.data) data.context = context.data + first * context.channels, data.context_pixel = context.channels;
    if (residual) data.residual = a.x + at;
    if (to.activated) data.activated = to.activated + at;
    kernels.gather(gather, band, data);
  });
}

std::tuple<Tensor, Tensor, Tensor> forward(Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> cond,
                                           std::vector<int64_t> taps, std::optional<Tensor> live, std::string activation,
                                           bool with_sigmoid, std::string isa_name, std::optional<Tensor> context,
                                           std::optional<Tensor> context_weight, bool residual, bool with_activated) {
  const Isa& isa = isa_by_name(kOp, isa_name);
  const ConvArguments a = check_conv(kOp, x, weight, taps, live, activation);
  if (bias) {
    check_float(kOp, "bias", *bias);
    check_shape(kOp, "bias", *bias, {a.p});
  }
  const Cond condition = check_cond(cond, a);
  Context map = {nullptr, nullptr, check_context(kOp, context, context_weight, a)};
  if (context) map.data = floats(*context), map.weight = floats(*context_weight);
  VLAE_CHECK(!with_sigmoid || a.activation == Activation::gate, kOp, "with_sigmoid", "be false without activation gate",
             "true");
  check_residual(kOp, residual, a);
  const int64_t none = 0;
  Tensor out = new_image(a, a.c);
  Tensor sigmoid = with_sigmoid ? new_image(a, a.c) : torch::stable::new_empty(x, {&none, 1});
  Tensor activated = with_activated ? new_image(a, a.c) : torch::stable::new_empty(x, {&none, 1});
  if (out.numel() > 0)
    run_forward(a, kernels_of(isa), bias ? floats(*bias) : nullptr, condition, map, residual,
                {out.mutable_data_ptr<float>(), with_sigmoid ? sigmoid.mutable_data_ptr<float>() : nullptr,
                 with_activated ? activated.mutable_data_ptr<float>() : nullptr});
  return {out, sigmoid, activated};
}

}  // namespace
}  // namespace vlae::masked_conv

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) {
  m.def(
      "masked_conv(Tensor x, Tensor weight, Tensor? bias, Tensor? cond, int[] taps, Tensor? live, str activation, "
      "bool with_sigmoid, str isa, Tensor? context=None, Tensor? context_weight=None, bool residual=False, bool "
      "with_activated=False) "
      "-> (Tensor out, Tensor sigmoid, Tensor activated)");
}

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) { m.impl("masked_conv", TORCH_BOX(&vlae::masked_conv::forward)); }
