// Checks of arguments that the ops of this family share.
#pragma once

#include <optional>

#include "../../tensors.h"
#include "../isa.h"
#include "bind.h"

namespace vlae::pixelcnn_sample {

constexpr int64_t kMaxSide = int64_t{1} << 20;

// Throws unless the sides of a tensor [B, n, H, W] are in range.
void check_sides(const char* op, const char* name, const Tensor& tensor);

// What the weights are packed for.
struct PackedFor {
  const Isa& isa;
  Storage storage;
};
PackedFor check_packed(const char* op, const Tensor& packed, const Plan& plan);

// image: [B, n, H, W], of the call.
ContextTensor check_context(const char* op, const std::optional<Tensor>& context, const Plan& plan, const Tensor& image);

}  // namespace vlae::pixelcnn_sample
