// An activation by itself: for networks whose values must not depend on where in memory they lie, cf. fixed_order.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../../parse_activation.h"
#include "../../tensors.h"
#include "../isa.h"
#include "kernels.h"

namespace vlae::pointwise {

VLAE_KERNELS_OF(VLAE_FOR_EACH_ISA);

namespace {

constexpr const char* kOp = "activate";
constexpr int64_t kGrain = 1 << 13;  // elements of which a thread takes no fewer: some 10 us

Tensor activate(Tensor x, std::string activation, std::string isa_name) {
  const Isa& isa = isa_by_name(kOp, isa_name);
  const Activation function = parse_activation(kOp, activation, kPointwise);
  check_float(kOp, "x", x);
  Tensor out = new_like(kOp, x, {x.sizes().begin(), x.sizes().end()});
  if (x.numel() == 0) return out;
  const Kernels kernels = kernels_of(isa);
  const float* from = floats(x);
  float* to = out.mutable_data_ptr<float>();
  torch::stable::parallel_for(0, x.numel(), kGrain, [&](int64_t first, int64_t last) {
    kernels.activate({from + first, to + first, last - first, function});
  });
  return out;
}

}  // namespace
}  // namespace vlae::pointwise

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) { m.def("activate(Tensor x, str activation, str isa) -> Tensor"); }

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) { m.impl("activate", TORCH_BOX(&vlae::pointwise::activate)); }
