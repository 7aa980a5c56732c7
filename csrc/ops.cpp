// The ops of the CPU library. Against libtorch's stable ABI: one binary for every torch from 2.10 on.
#include "ops.h"

#include <torch/csrc/stable/library.h>

#include "cpu/isa.h"

namespace vlae {
namespace {

std::string isas() { return runnable_names(); }

}  // namespace
}  // namespace vlae

STABLE_TORCH_LIBRARY(vlae_fast_cpu, m) {
  m.def("isas() -> str");
  m.def(
      "masked_conv(Tensor x, Tensor weight, Tensor? bias, Tensor? cond, int[] taps, Tensor? live, str activation, "
      "bool keep_sigmoid, str isa) -> (Tensor out, Tensor sigmoid)");
  m.def(
      "masked_conv_backward(Tensor grad, Tensor? out, Tensor? sigmoid, Tensor x, Tensor weight, int[] taps, Tensor? live, "
      "str activation, int[] needs, bool cond_map, str isa) -> Tensor[]");
  m.def("pixelcnn_pack(Tensor[] weights, int[] plan, str isa) -> Tensor");
  m.def(
      "pixelcnn_sample(Tensor noise, Tensor packed, int[] plan, Tensor? context, Tensor? known_mask, Tensor? known, "
      "float temperature) -> (Tensor images, Tensor logits)");
  m.def(
      "made_inverse(Tensor eps, Tensor[] weights, Tensor[] biases, Tensor[] degrees, Tensor? cond, str activation, "
      "str scale, str isa) -> (Tensor x, Tensor log_det)");
  m.def(
      "masked_linear(Tensor x, Tensor weight, Tensor? bias, Tensor? in_degrees, Tensor? out_degrees, Tensor? adjacency, "
      "str activation, str isa) -> Tensor");
  m.def(
      "masked_linear_backward(Tensor grad, Tensor? y, Tensor x, Tensor weight, Tensor? in_degrees, Tensor? out_degrees, "
      "Tensor? adjacency, str activation, bool needs_x, bool needs_weight, bool needs_bias, str isa) "
      "-> (Tensor grad_x, Tensor grad_weight, Tensor grad_bias)");
}

// No tensor among its arguments tells the dispatcher of a device.
STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CompositeExplicitAutograd, m) { m.impl("isas", TORCH_BOX(&vlae::isas)); }

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) {
  m.impl("masked_conv", TORCH_BOX(&vlae::masked_conv));
  m.impl("masked_conv_backward", TORCH_BOX(&vlae::masked_conv_backward));
  m.impl("pixelcnn_pack", TORCH_BOX(&vlae::pixelcnn_pack));
  m.impl("pixelcnn_sample", TORCH_BOX(&vlae::pixelcnn_sample));
  m.impl("made_inverse", TORCH_BOX(&vlae::made_inverse));
  m.impl("masked_linear", TORCH_BOX(&vlae::masked_linear));
  m.impl("masked_linear_backward", TORCH_BOX(&vlae::masked_linear_backward));
}
