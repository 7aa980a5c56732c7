// Tensors on the GPU that an op runs on: checks of those that hold its numbers.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "../tensors.h"
#include "current.h"
#include "number.h"

namespace vlae::cuda {

struct NumberType {
  const char* name;
  ScalarType type;
};

constexpr NumberType kNumbers[] = {
    {"float32", ScalarType::Float}, {"bfloat16", ScalarType::BFloat16}, {"float16", ScalarType::Half}};

inline Number number_of(const char* op, const std::string& name, const Tensor& tensor) {
  for (int i = 0; i < 3; ++i)
    if (tensor.scalar_type() == kNumbers[i].type) return static_cast<Number>(i);
  VLAE_CHECK(false, op, name, "be float32, bfloat16 or float16", text("ScalarType ", static_cast<int>(tensor.scalar_type())));
  __builtin_unreachable();
}

// Throws unless the tensor is contiguous, on the GPU of `like` and of its numbers.
inline void check_numbers(const char* op, const std::string& name, const Tensor& tensor, const Tensor& like) {
  check_on_device(op, name, tensor, like);
  check_values(op, name, tensor, like.scalar_type(), kNumbers[static_cast<int>(number_of(op, name, like))].name);
}

inline Tensor new_vector(const Tensor& like, int64_t n, ScalarType type) { return torch::stable::new_empty(like, {&n, 1}, type); }

}  // namespace vlae::cuda
