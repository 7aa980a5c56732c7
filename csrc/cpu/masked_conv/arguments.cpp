#include "arguments.h"

#include <torch/csrc/stable/ops.h>

#include "../../parse_activation.h"

namespace vlae::masked_conv {
namespace {

constexpr const char* name_of(ScalarType maps) { return maps == ScalarType::Float ? "float32" : "bfloat16"; }

constexpr int64_t kMaxKernel = (int64_t{1} << 15) - 1;  // an empty weight may claim any: no product of two overflows

}  // namespace

ConvArguments check_conv(const char* op, const Tensor& x, const Tensor& weight, const std::vector<int64_t>& taps,
                         const std::optional<Tensor>& live, const std::string& activation, ScalarType maps) {
  ConvArguments a;
  a.activation = parse_activation(op, activation, kMaskedConv);
  check_data(op, "x", x, maps, name_of(maps));
  VLAE_CHECK(x.dim() == 4, op, "x", "be [B, H, W, C_in]", shape_text(x.sizes()));
  check_float(op, "weight", weight);
  VLAE_CHECK(weight.dim() == 4 && weight.size(2) == weight.size(3) && weight.size(2) % 2 == 1, op, "weight",
             "be [P, C_in, k, k] with k odd", shape_text(weight.sizes()));
  VLAE_CHECK(weight.size(2) <= kMaxKernel, op, "weight", text("have k <= ", kMaxKernel), weight.size(2));
  VLAE_CHECK(weight.size(1) == x.size(3), op, "x", text("have the C_in of weight, ", weight.size(1), " channels"), x.size(3));
  VLAE_CHECK(x.size(3) > 0, op, "x", "have C_in >= 1", x.size(3));
  a.batch = x.size(0), a.image = {x.size(1), x.size(2)}, a.c_in = x.size(3), a.p = weight.size(0);
  const bool gate = a.activation == Activation::gate;
  VLAE_CHECK(!gate || a.p % 2 == 0, op, "weight", "have an even P under activation gate", a.p);
  a.c = gate ? a.p / 2 : a.p;
  a.taps = parse_taps(op, taps, weight.size(2), a.image);
  if (live) {
    check_data(op, "live", *live, ScalarType::Bool, "bool");
    check_shape(op, "live", *live, {weight.sizes().begin(), weight.sizes().end()});
  }
  a.x = maps == ScalarType::Float ? floats(x) : nullptr, a.weight = floats(weight),
  a.live = live ? live->const_data_ptr<bool>() : nullptr;
  return a;
}

int64_t check_context(const char* op, const std::optional<Tensor>& context, const std::optional<Tensor>& weight,
                      const ConvArguments& a, ScalarType maps) {
  VLAE_CHECK(context.has_value() == weight.has_value(), op, "context_weight", "be given with context, and only with it",
             weight ? "a tensor" : "None");
  if (!context) return 0;
  check_data(op, "context", *context, maps, name_of(maps));
  VLAE_CHECK(context->dim() == 4 && context->size(3) > 0, op, "context", "be [B, H, W, D] with D >= 1",
             shape_text(context->sizes()));
  check_shape(op, "context", *context, {a.batch, a.image.height, a.image.width, context->size(3)});
  check_float(op, "context_weight", *weight);
  check_shape(op, "context_weight", *weight, {a.p, context->size(3)});
  return context->size(3);
}

void check_residual(const char* op, bool residual, const ConvArguments& a) {
  VLAE_CHECK(!residual || a.c == a.c_in, op, "residual", text("be false unless C_in is C, ", a.c), text("C_in ", a.c_in));
}

Tensor new_image(const ConvArguments& a, int64_t channels, ScalarType dtype) {
  const std::vector<int64_t> sizes = {a.batch, channels, a.image.height, a.image.width};
  return allocated("masked_conv", sizes, dtype == ScalarType::Float ? 4 : 2, [&] {
    return torch::stable::empty({sizes.data(), sizes.size()}, dtype, std::nullopt, std::nullopt, std::nullopt,
                                torch::headeronly::MemoryFormat::ChannelsLast);
  });
}

}  // namespace vlae::masked_conv
