// The device of a call's tensors, and PyTorch's current stream there.
#pragma once

#include <string>

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/shim_utils.h>

#include "../checks.h"

// A weak symbol, since only a torch with CUDA has it: the library loads on any torch, and says why it cannot run.
extern "C" [[gnu::weak]] AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index, void** stream);

namespace vlae::cuda {

#if !defined(VLAE_CUDA_ON_HOST)

inline bool has_streams() { return aoti_torch_get_current_cuda_stream != nullptr; }

inline bool on_device(const torch::stable::Tensor& tensor) { return tensor.is_cuda(); }

class Current {
 public:
  Current(const char* op, const torch::stable::Tensor& tensor) : guard_(tensor.get_device_index()) {
    VLAE_CHECK(has_streams(), op, "torch", "be built with CUDA", "one without");
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream_));
  }

  void* stream() const { return stream_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* stream_ = nullptr;
};

#else

inline bool has_streams() { return true; }

inline bool on_device(const torch::stable::Tensor& tensor) { return tensor.is_cpu(); }

struct Current {
  Current(const char*, const torch::stable::Tensor&) {}
  void* stream() const { return nullptr; }
};

#endif

// Throws unless both tensors are on the same GPU.
inline void check_on_device(const char* op, const std::string& name, const torch::stable::Tensor& tensor,
                            const torch::stable::Tensor& like) {
  VLAE_CHECK(on_device(tensor), op, name, "be on a GPU", "another device");
  VLAE_CHECK(tensor.get_device_index() == like.get_device_index(), op, name,
             text("be on device ", like.get_device_index(), ", that of the first tensor"),
             text("device ", tensor.get_device_index()));
}

}  // namespace vlae::cuda
