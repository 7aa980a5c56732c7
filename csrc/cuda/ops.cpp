// The ops of the CUDA library. Against libtorch's stable ABI: one binary for every torch from 2.10 on.
#include "ops.h"

#include <torch/csrc/stable/library.h>

#include "current.h"
#include "pixelcnn_sample/kernel.h"

#if !defined(VLAE_CUDA_ON_HOST)
#define VLAE_LIBRARY vlae_fast_cuda
#define VLAE_DEVICE CUDA
#else  // the tests' emulation, beside which the library itself may be loaded
#define VLAE_LIBRARY vlae_fast_cuda_host
#define VLAE_DEVICE CPU
#endif

// So that the names are expanded before they are pasted.
#define VLAE_DEFINE(library, m) STABLE_TORCH_LIBRARY(library, m)
#define VLAE_IMPLEMENT(library, key, m) STABLE_TORCH_LIBRARY_IMPL(library, key, m)

namespace vlae::cuda {
namespace {

std::string problem() { return has_streams() ? why_not() : "torch was built without CUDA"; }

}  // namespace
}  // namespace vlae::cuda

VLAE_DEFINE(VLAE_LIBRARY, m) {
  m.def("why_not() -> str");
  m.def("made_plan(Tensor[] degrees) -> (Tensor tables, Tensor header)");
  m.def(
      "made_inverse(Tensor eps, Tensor[] weights, Tensor[] biases, Tensor tables, Tensor header, Tensor? cond, "
      "str activation, str scale) -> (Tensor x, Tensor log_det)");
  m.def("pixelcnn_pack(Tensor[] weights, int[] plan, str number) -> (Tensor packed, Tensor header)");
  m.def(
      "pixelcnn_sample(Tensor noise, Tensor packed, Tensor header, int[] plan, Tensor? context, Tensor? known_mask, "
      "Tensor? known, float temperature) -> (Tensor images, Tensor logits)");
}

// No tensor among its arguments tells the dispatcher of a device.
VLAE_IMPLEMENT(VLAE_LIBRARY, CompositeExplicitAutograd, m) { m.impl("why_not", TORCH_BOX(&vlae::cuda::problem)); }

VLAE_IMPLEMENT(VLAE_LIBRARY, CPU, m) {
  m.impl("made_plan", TORCH_BOX(&vlae::cuda::made_plan));
  m.impl("pixelcnn_pack", TORCH_BOX(&vlae::cuda::pixelcnn_pack));
}

VLAE_IMPLEMENT(VLAE_LIBRARY, VLAE_DEVICE, m) {
  m.impl("made_inverse", TORCH_BOX(&vlae::cuda::made_inverse));
  m.impl("pixelcnn_sample", TORCH_BOX(&vlae::cuda::pixelcnn_sample));
}
