// The library's own op: "", or why its kernels cannot run here.
#include <string>

#include "current.h"
#include "library.h"
#include "pixelcnn_sample/kernel.h"

namespace vlae::cuda {
namespace {

// One kernel answers for all: they are compiled for the same architectures.
std::string why_not() { return has_streams() ? pixelcnn_sample::why_not() : "torch was built without CUDA"; }

}  // namespace
}  // namespace vlae::cuda

VLAE_CUDA_SCHEMAS(m) { m.def("why_not() -> str"); }

// No tensor among its arguments tells the dispatcher of a device.
VLAE_CUDA_IMPL(CompositeExplicitAutograd, m) { m.impl("why_not", TORCH_BOX(&vlae::cuda::why_not)); }
