// The op's arguments: checked here, so that nothing behind this file can be led out of bounds.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../../narrow.h"
#include "../../parse_activation.h"
#include "../../tensors.h"
#include "../isa.h"
#include "../masked_linear/order.h"
#include "run.h"

namespace vlae::masked_linear {

VLAE_KERNELS_OF(VLAE_FOR_EACH_ISA);

}

namespace vlae::made {

VLAE_KERNELS_OF(VLAE_FOR_EACH_ISA);

namespace {

using masked_linear::gathered;
using masked_linear::inverse_of;

constexpr const char* kForward = "made";
constexpr const char* kBackward = "made_backward";

Both all_kernels_of(const Isa& isa) { return {masked_linear::kernels_of(isa), kernels_of(isa)}; }

void check_rows(const char* op, const std::string& name, const Tensor& rows, int64_t batch, const Network& network,
                int64_t layer) {
  check_float(op, name, rows);
  check_shape(op, name, rows, {batch, network.units(layer)});
}

// The outputs, and those of the hidden layers where they are wanted: units of these in the order of their degrees.
std::vector<Tensor> forward(Tensor x, std::vector<Tensor> weights, std::vector<Tensor> biases, std::vector<Tensor> degrees,
                            std::optional<Tensor> cond, std::string activation, bool with_hidden, std::string isa_name) {
  const Isa& isa = isa_by_name(kForward, isa_name);
  Forward f = {};
  f.activation = parse_activation(kForward, activation, kMadeInverse);
  const Both kernels = all_kernels_of(isa);
  const Network network(kForward, x, weights, degrees, Side::outputs, kernels.linear.lanes);
  const int64_t layers = network.size();
  f.batch = x.size(0);
  VLAE_CHECK(biases.size() == weights.size(), kForward, "biases", text("have ", layers, " entries"), biases.size());
  std::vector<Tensor> outs = {new_like(kForward, x, {f.batch, network.layer(layers - 1).outputs})};
  for (int64_t l = 0; l < layers; ++l) {
    Tensor& bias = biases[usize(l)];
    const std::string name = text("biases[", l, "]");
    check_float(kForward, name, bias);
    check_shape(kForward, name, bias, {network.layer(l).outputs});
    bias = gathered(bias, {}, network.places(l + 1));
    f.biases.push_back(floats(bias));
    if (!network.is_last(l) && with_hidden) outs.push_back(new_like(kForward, x, {f.batch, network.layer(l).outputs}));
    f.outs.push_back(network.is_last(l) ? outs[0].mutable_data_ptr<float>()
                     : with_hidden      ? outs.back().mutable_data_ptr<float>()
                                        : nullptr);
  }
  if (cond) {
    check_rows(kForward, "cond", *cond, f.batch, network, 1);
    cond = gathered(*cond, {}, network.places(1));
    f.cond = floats(*cond);
  }
  x = gathered(x, {}, network.places(0));
  f.x = floats(x);
  if (f.batch > 0) run_forward(kForward, kernels, network, f);
  outs[0] = gathered(outs[0], {}, inverse_of(network.places(layers)));
  return outs;
}

// Uninitialised where it is wanted, else nullptr.
float* wanted(std::vector<Tensor>& grads, const Tensor& like, const std::vector<int64_t>& sizes, int64_t need) {
  if (!need) return nullptr;
  grads.push_back(new_like(kBackward, like, sizes));
  return grads.back().mutable_data_ptr<float>();
}

// Gradients of x, cond, the weights and the biases, in this order; of those alone that `needs` has a 1 for.
std::vector<Tensor> backward(Tensor grad, Tensor x, std::vector<Tensor> hidden, std::vector<Tensor> weights,
                             std::vector<Tensor> degrees, std::string activation, std::vector<int64_t> needs,
                             std::string isa_name) {
  const Isa& isa = isa_by_name(kBackward, isa_name);
  Backward b = {};
  b.activation = parse_activation(kBackward, activation, kMadeInverse);
  const Both kernels = all_kernels_of(isa);
  const Network network(kBackward, x, weights, degrees, Side::inputs, kernels.linear.lanes);
  const int64_t layers = network.size(), batch = x.size(0);
  b.batch = batch;
  VLAE_CHECK(static_cast<int64_t>(needs.size()) == 2 + 2 * layers, kBackward, "needs",
             text("have ", 2 + 2 * layers, " entries"), needs.size());
  VLAE_CHECK(static_cast<int64_t>(hidden.size()) == layers - 1, kBackward, "hidden", text("have ", layers - 1, " entries"),
             hidden.size());
  check_rows(kBackward, "grad", grad, batch, network, layers);
  for (int64_t l = 0; l + 1 < layers; ++l) {
    check_rows(kBackward, text("hidden[", l, "]"), hidden[usize(l)], batch, network, l + 1);
    b.hidden.push_back(floats(hidden[usize(l)]));
  }
  grad = gathered(grad, {}, network.places(layers));
  const Tensor sorted_x = gathered(x, {}, network.places(0));
  b.grad = floats(grad);
  b.x = floats(sorted_x);
  std::vector<Tensor> grads;
  b.grad_x = wanted(grads, x, {batch, network.layer(0).inputs}, needs[0]);
  b.grad_cond = wanted(grads, x, {batch, network.layer(0).outputs}, needs[1]);
  for (int64_t l = 0; l < layers; ++l)
    b.grad_weights.push_back(wanted(grads, x, {network.layer(l).outputs, network.layer(l).inputs}, needs[usize(2 + l)]));
  for (int64_t l = 0; l < layers; ++l)
    b.grad_biases.push_back(wanted(grads, x, {network.layer(l).outputs}, needs[usize(2 + layers + l)]));
  if (batch == 0)
    for (Tensor& none : grads) none = torch::stable::zero_(none);
  else if (!grads.empty())
    run_backward(kBackward, kernels, network, b);
  const auto back = [&](int64_t layer) { return inverse_of(network.places(layer)); };
  size_t next = 0;
  const auto give_back = [&](int64_t need, const std::vector<int32_t>& rows, const std::vector<int32_t>& columns) {
    if (!need) return;
    grads[next] = gathered(grads[next], rows, columns);
    ++next;
  };
  give_back(needs[0], {}, back(0));
  give_back(needs[1], {}, back(1));
  for (int64_t l = 0; l < layers; ++l) give_back(needs[usize(2 + l)], back(l + 1), back(l));
  for (int64_t l = 0; l < layers; ++l) give_back(needs[usize(2 + layers + l)], {}, back(l + 1));
  return grads;
}

}  // namespace
}  // namespace vlae::made

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) {
  m.def(
      "made(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] degrees, Tensor? cond, str activation, bool with_hidden, "
      "str isa) -> Tensor[]");
  m.def(
      "made_backward(Tensor grad, Tensor x, Tensor[] hidden, Tensor[] weights, Tensor[] degrees, str activation, int[] needs, "
      "str isa) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) {
  m.impl("made", TORCH_BOX(&vlae::made::forward));
  m.impl("made_backward", TORCH_BOX(&vlae::made::backward));
}
