// Checks of tensor arguments and the reading of their data.
#pragma once

#include <algorithm>
#include <iomanip>
#include <string>
#include <vector>

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include "checks.h"

namespace vlae {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline std::string sizes_text(const std::vector<int64_t>& sizes) { return shape_text({sizes.data(), sizes.size()}); }

inline bool has_shape(const Tensor& tensor, const std::vector<int64_t>& sizes) {
  const auto got = tensor.sizes();
  return std::equal(got.begin(), got.end(), sizes.begin(), sizes.end());
}

// On any device.
inline void check_values(const char* op, const std::string& name, const Tensor& tensor, ScalarType dtype,
                         const char* dtype_name) {
  VLAE_CHECK(tensor.scalar_type() == dtype, op, name, text("be ", dtype_name),
             text("ScalarType ", static_cast<int>(tensor.scalar_type())));
  VLAE_CHECK(tensor.is_contiguous(), op, name, "be contiguous", text("strides ", shape_text(tensor.strides())));
}

inline void check_data(const char* op, const std::string& name, const Tensor& tensor, ScalarType dtype,
                       const char* dtype_name) {
  VLAE_CHECK(tensor.is_cpu(), op, name, "be on the CPU", "another device");
  check_values(op, name, tensor, dtype, dtype_name);
}

inline void check_float(const char* op, const std::string& name, const Tensor& tensor) {
  check_data(op, name, tensor, ScalarType::Float, "float32");
}

inline void check_shape(const char* op, const std::string& name, const Tensor& tensor, const std::vector<int64_t>& sizes) {
  VLAE_CHECK(has_shape(tensor, sizes), op, name, "be " + sizes_text(sizes), shape_text(tensor.sizes()));
}

// The tensor of make(), or an error that says how much memory it asked for: that of the stable ABI does not.
template <typename Make>
Tensor allocated(const char* op, const std::vector<int64_t>& sizes, int64_t element_bytes, const Make& make) {
  try {
    return make();
  } catch (const std::exception&) {
    double bytes = static_cast<double>(element_bytes);
    for (const int64_t size : sizes) bytes *= static_cast<double>(size);
    std::ostringstream count;
    count << std::fixed << std::setprecision(0) << bytes;
    VLAE_CHECK(false, op, "memory", text("hold ", count.str(), " bytes more"), "none");
  }
}

// Uninitialised, of the dtype and device of `like`.
inline Tensor new_like(const char* op, const Tensor& like, const std::vector<int64_t>& sizes) {
  const ScalarType dtype = like.scalar_type();
  const int64_t element_bytes = dtype == ScalarType::BFloat16 ? 2 : dtype == ScalarType::Float ? 4 : 8;
  return allocated(op, sizes, element_bytes, [&] { return torch::stable::new_empty(like, {sizes.data(), sizes.size()}); });
}

inline const float* floats(const Tensor& tensor) { return tensor.const_data_ptr<float>(); }

}  // namespace vlae
