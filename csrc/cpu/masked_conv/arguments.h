// The arguments that forward and backward share, checked. Images come in as [B, H, W, C], contiguous.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "../../tensors.h"
#include "../isa.h"
#include "geometry.h"

namespace vlae::masked_conv {

VLAE_KERNELS_OF(VLAE_FOR_EACH_ISA);

struct ConvArguments {
  Activation activation;
  Taps taps;
  Image image;
  int64_t batch, c_in;
  int64_t p, c;  // channels before and after the gate: p = 2 c under it, else p = c
  const float* x;
  const float* weight;
  const bool* live;
};

// maps: the dtype of x, float32 or bfloat16; the weight is float32. Of the arguments, x is nullptr unless it is float32.
ConvArguments check_conv(const char* op, const Tensor& x, const Tensor& weight, const std::vector<int64_t>& taps,
                         const std::optional<Tensor>& live, const std::string& activation, ScalarType maps = ScalarType::Float);

// D of a context [B, H, W, D] and its weight [P, D], 0 where there is none.
int64_t check_context(const char* op, const std::optional<Tensor>& context, const std::optional<Tensor>& weight,
                      const ConvArguments& arguments, ScalarType maps = ScalarType::Float);

// A residual is x itself, added to the output.
void check_residual(const char* op, bool residual, const ConvArguments& arguments);

// [B, channels, H, W] in channels_last memory.
Tensor new_image(const ConvArguments& arguments, int64_t channels, ScalarType dtype = ScalarType::Float);

}  // namespace vlae::masked_conv
