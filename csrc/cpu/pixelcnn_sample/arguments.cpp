#include "arguments.h"

#include "packing.h"

namespace vlae::pixelcnn_sample {

void check_sides(const char* op, const char* name, const Tensor& tensor) {
  for (int64_t side = 2; side < 4; ++side)
    VLAE_CHECK(1 <= tensor.size(side) && tensor.size(side) <= kMaxSide, op, name, text("have sides in 1..", kMaxSide),
               shape_text(tensor.sizes()));
}

PackedFor check_packed(const char* op, const Tensor& packed, const Plan& plan) {
  check_float(op, "packed", packed);
  VLAE_CHECK(packed.dim() == 1, op, "packed", "have one dimension", shape_text(packed.sizes()));
  const Header header = read_header(op, floats(packed), packed.numel(), plan);
  return {isa_by_id(op, header.isa, header.storage), header.storage};
}

ContextTensor check_context(const char* op, const std::optional<Tensor>& context, const Plan& plan, const Tensor& image) {
  const bool wanted = plan.context_dim > 0;
  VLAE_CHECK(context.has_value() == wanted, op, "context", wanted ? "be given for this plan" : "be None for this plan",
             context ? shape_text(context->sizes()) : "None");
  if (!context) return {nullptr, false};
  check_float(op, "context", *context);
  const std::vector<int64_t> flat = {image.size(0), plan.context_dim};
  const std::vector<int64_t> full = {image.size(0), image.size(2), image.size(3), plan.context_dim};
  VLAE_CHECK(has_shape(*context, flat) || has_shape(*context, full), op, "context",
             "be " + sizes_text(flat) + " or " + sizes_text(full), shape_text(context->sizes()));
  return {floats(*context), context->dim() == 4};
}

}  // namespace vlae::pixelcnn_sample
