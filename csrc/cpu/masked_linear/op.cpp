// The op's arguments: checked here, so that nothing behind this file can be led out of bounds.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../../narrow.h"
#include "../../parse_activation.h"
#include "../../tensors.h"
#include "../isa.h"
#include "../memory.h"
#include "order.h"
#include "run.h"
#include "structure.h"

namespace vlae::masked_linear {

VLAE_KERNELS_OF(VLAE_FOR_EACH_ISA);

namespace {

constexpr const char* kForward = "masked_linear";
constexpr const char* kBackward = "masked_linear_backward";

const int64_t* check_degrees(const char* op, const char* name, const Tensor& degrees, int64_t size) {
  check_data(op, name, degrees, ScalarType::Long, "int64");
  check_shape(op, name, degrees, {size});
  return degrees.const_data_ptr<int64_t>();
}

// The layer and the memory behind it.
struct CheckedLayer {
  LinearLayer layer = {};
  std::shared_ptr<const Structure> structure;

  CheckedLayer(const char* op, const Tensor& x, const Tensor& weight, const std::optional<Tensor>& in,
               const std::optional<Tensor>& out, const std::optional<Tensor>& adjacency, Side side, int64_t lanes) {
    check_float(op, "x", x);
    VLAE_CHECK(x.dim() == 2, op, "x", "be [B, I]", shape_text(x.sizes()));
    check_float(op, "weight", weight);
    VLAE_CHECK(weight.dim() == 2 && weight.size(1) == x.size(1), op, "weight", text("be [O, ", x.size(1), "]"),
               shape_text(weight.sizes()));
    layer.inputs = weight.size(1);
    layer.outputs = weight.size(0);
    layer.weight = floats(weight);
    VLAE_CHECK(in.has_value() == out.has_value() && in.has_value() != adjacency.has_value(), op, "in_degrees, out_degrees",
               "be given together, or else adjacency", text(in.has_value(), out.has_value(), adjacency.has_value()));
    MaskData mask = {nullptr, nullptr, nullptr, layer.inputs, layer.outputs};
    if (adjacency) {
      check_data(op, "adjacency", *adjacency, ScalarType::Bool, "bool");
      check_shape(op, "adjacency", *adjacency, {layer.outputs, layer.inputs});
      static constexpr bool kNone = false;  // the pointer says that there is an adjacency, and an empty tensor has none
      mask.adjacency = layer.adjacency = adjacency->numel() > 0 ? adjacency->const_data_ptr<bool>() : &kNone;
    } else {
      mask.in_degrees = check_degrees(op, "in_degrees", *in, layer.inputs);
      mask.out_degrees = check_degrees(op, "out_degrees", *out, layer.outputs);
    }
    structure = structure_of(op, mask, side, lanes);
    if (adjacency) return;
    layer.in_degrees = structure->in_degrees.data();
    layer.out_degrees = structure->out_degrees.data();
    layer.in_order = structure->in_places.empty() ? nullptr : structure->in_places.data();
    layer.out_order = structure->out_places.empty() ? nullptr : structure->out_places.data();
  }
};

Tensor empty_like_sizes(const Tensor& like, std::vector<int64_t> sizes) { return new_like(kForward, like, sizes); }

Tensor forward(Tensor x, Tensor weight, std::optional<Tensor> bias, std::optional<Tensor> in_degrees,
               std::optional<Tensor> out_degrees, std::optional<Tensor> adjacency, std::string activation,
               std::string isa_name) {
  const Isa& isa = isa_by_name(kForward, isa_name);
  const Activation function = parse_activation(kForward, activation, kMaskedLinear);
  const Kernels kernels = kernels_of(isa);
  const CheckedLayer checked(kForward, x, weight, in_degrees, out_degrees, adjacency, Side::outputs, kernels.lanes);
  if (bias) {
    check_float(kForward, "bias", *bias);
    check_shape(kForward, "bias", *bias, {checked.layer.outputs});
  }
  x = gathered(x, {}, checked.structure->in_places);
  if (bias) bias = gathered(*bias, {}, checked.structure->out_places);
  Tensor y = empty_like_sizes(x, {x.size(0), checked.layer.outputs});
  if (y.numel() > 0)
    run_forward(kForward, kernels, checked.layer, *checked.structure,
                {floats(x), bias ? floats(*bias) : nullptr, x.size(0), function, y.mutable_data_ptr<float>()});
  return y;
}

std::tuple<Tensor, Tensor, Tensor> backward(Tensor grad, std::optional<Tensor> y, Tensor x, Tensor weight,
                                            std::optional<Tensor> in_degrees, std::optional<Tensor> out_degrees,
                                            std::optional<Tensor> adjacency, std::string activation, bool needs_x,
                                            bool needs_weight, bool needs_bias, std::string isa_name) {
  const Isa& isa = isa_by_name(kBackward, isa_name);
  const Activation function = parse_activation(kBackward, activation, kMaskedLinear);
  const Kernels kernels = kernels_of(isa);
  const CheckedLayer checked(kBackward, x, weight, in_degrees, out_degrees, adjacency, Side::inputs, kernels.lanes);
  const int64_t batch = x.size(0), inputs = checked.layer.inputs, outputs = checked.layer.outputs;
  check_float(kBackward, "grad", grad);
  check_shape(kBackward, "grad", grad, {batch, outputs});
  VLAE_CHECK(y || function == Activation::none, kBackward, "y", "be given with an activation", "None");
  if (y) {
    check_float(kBackward, "y", *y);
    check_shape(kBackward, "y", *y, {batch, outputs});
  }
  const bool copies = (needs_x || needs_weight) && (function != Activation::none || checked.layer.out_order);
  const int64_t stride = copies ? padded_stride(outputs) : outputs;
  Tensor grad_x = empty_like_sizes(x, {needs_x ? batch : 0, inputs});
  Tensor grad_weight = empty_like_sizes(x, {needs_weight ? outputs : 0, inputs});
  Tensor grad_bias = empty_like_sizes(x, {needs_bias ? outputs : 0});
  static thread_local KeptFloats kept;  // fresh pages of its own cost a tenth of the call
  const FloatsOfCall g(kBackward, kept, copies ? batch * stride : 0);

  if (copies || needs_bias)
    run_slopes(kernels, {floats(grad), y ? floats(*y) : nullptr, batch, outputs, checked.layer.out_order, function,
                         copies ? g.data : nullptr, stride, needs_bias ? grad_bias.mutable_data_ptr<float>() : nullptr});
  x = gathered(x, {}, checked.structure->in_places);
  LinearLayer sorted = checked.layer;
  const Tensor sorted_weight = needs_x ? gathered(weight, checked.structure->out_places, checked.structure->in_places) : weight;
  sorted.weight = floats(sorted_weight);
  sorted.in_order = sorted.out_order = nullptr;
  const float* g_read = copies || batch == 0 ? g.data : floats(grad);  // an empty tensor has no address
  if (inputs > 0)
    run_backward(kBackward, kernels, sorted, *checked.structure,
                 {floats(x), g_read, batch, stride, needs_x ? grad_x.mutable_data_ptr<float>() : nullptr,
                  needs_weight ? grad_weight.mutable_data_ptr<float>() : nullptr});
  const std::vector<int32_t> in_back = inverse_of(checked.structure->in_places),
                             out_back = inverse_of(checked.structure->out_places);
  return {needs_x ? gathered(grad_x, {}, in_back) : grad_x,
          needs_weight ? gathered(grad_weight, out_back, in_back) : grad_weight, grad_bias};
}

}  // namespace
}  // namespace vlae::masked_linear

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) {
  m.def(
      "masked_linear(Tensor x, Tensor weight, Tensor? bias, Tensor? in_degrees, Tensor? out_degrees, Tensor? adjacency, "
      "str activation, str isa) -> Tensor");
  m.def(
      "masked_linear_backward(Tensor grad, Tensor? y, Tensor x, Tensor weight, Tensor? in_degrees, Tensor? out_degrees, "
      "Tensor? adjacency, str activation, bool needs_x, bool needs_weight, bool needs_bias, str isa) "
      "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)");
}

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) {
  m.impl("masked_linear", TORCH_BOX(&vlae::masked_linear::forward));
  m.impl("masked_linear_backward", TORCH_BOX(&vlae::masked_linear::backward));
}
