// Checks of the tensors on the GPU that hold an op's values.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "../tensors.h"
#include "current.h"
#include "dtype.h"

namespace vlae::cuda {

struct DtypeRow {
  Dtype dtype;
  const char* name;
  ScalarType type;
};

constexpr DtypeRow kDtypes[] = {{Dtype::float32, "float32", ScalarType::Float},
                                {Dtype::bfloat16, "bfloat16", ScalarType::BFloat16},
                                {Dtype::float16, "float16", ScalarType::Half}};
constexpr const char* kDtypeRule = "be float32, bfloat16 or float16";

inline const DtypeRow& dtype_row_of(const char* op, const std::string& name, const Tensor& tensor) {
  for (const DtypeRow& row : kDtypes)
    if (tensor.scalar_type() == row.type) return row;
  VLAE_CHECK(false, op, name, kDtypeRule, text("ScalarType ", static_cast<int>(tensor.scalar_type())));
  __builtin_unreachable();
}

inline Dtype dtype_of(const char* op, const std::string& name, const Tensor& tensor) {
  return dtype_row_of(op, name, tensor).dtype;
}

inline Dtype parse_dtype(const char* op, const std::string& name) {
  for (const DtypeRow& row : kDtypes)
    if (name == row.name) return row.dtype;
  VLAE_CHECK(false, op, "dtype", kDtypeRule, name);
  __builtin_unreachable();
}

// Throws unless the tensor is contiguous, on the GPU of `like` and of its dtype.
inline void check_like(const char* op, const std::string& name, const Tensor& tensor, const Tensor& like) {
  check_on_device(op, name, tensor, like);
  check_values(op, name, tensor, like.scalar_type(), dtype_row_of(op, name, like).name);
}

inline Tensor new_vector(const Tensor& like, int64_t n, ScalarType type) {
  return torch::stable::new_empty(like, {&n, 1}, type);
}

}  // namespace vlae::cuda
