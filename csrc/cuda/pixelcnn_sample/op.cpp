// Schemas and implementations of pixelcnn_pack and pixelcnn_sample. Arguments are checked here, so that nothing behind this
// file can be led out of bounds. Data on the GPU is not looked into, which would wait for it.
#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "../../pixelcnn_sample/limits.h"
#include "../../pixelcnn_sample/reads.h"
#include "../../pixelcnn_sample/weights.h"
#include "../arguments.h"
#include "../library.h"
#include "bind.h"
#include "kernel.h"

namespace vlae::cuda::pixelcnn_sample {
namespace {

constexpr const char* kPack = "pixelcnn_pack";
constexpr const char* kSample = "pixelcnn_sample";
constexpr const char* kLacks = "cannot hold it";
constexpr int64_t kMaxSide = int64_t{1} << 20;
constexpr int64_t kMaxValues = (int64_t{1} << 31) - 1;  // in a batch: samples are counted in 32 bits

constexpr int64_t kMagic = 0x564c4143;
constexpr int64_t kFormat = 3;

std::vector<int64_t> header_of(const Plan& plan, const Packing& packing) {
  return {kMagic, kFormat, static_cast<int64_t>(packing.dtype), packing.size, static_cast<int64_t>(plan.checksum)};
}

void check_packed(const Tensor& packed, const Tensor& header, const Plan& plan, const Packing& packing, const Tensor& noise) {
  const std::vector<int64_t> wanted = header_of(plan, packing);
  check_data(kSample, "header", header, ScalarType::Long, "int64");
  const int64_t n = static_cast<int64_t>(wanted.size()), *words = header.const_data_ptr<int64_t>();
  VLAE_CHECK(header.numel() == n && words[0] == kMagic && words[1] == kFormat, kSample, "packed", "come from pixelcnn_pack",
             "a header that does not");
  VLAE_CHECK(std::equal(wanted.begin(), wanted.end(), words), kSample, "packed", "be packed for this plan and noise",
             "the weights of another plan, or other numbers");
  check_like(kSample, "packed", packed, noise);
  check_shape(kSample, "packed", packed, {packing.size});
}

void check_noise(const Tensor& noise, const Plan& plan) {
  check_like(kSample, "noise", noise, noise);
  VLAE_CHECK(noise.dim() == 4 && noise.size(1) == plan.noises(), kSample, "noise", text("be [B, ", plan.noises(), ", H, W]"),
             shape_text(noise.sizes()));
  for (int64_t side = 2; side < 4; ++side)
    VLAE_CHECK(1 <= noise.size(side) && noise.size(side) <= kMaxSide, kSample, "noise", text("have sides in 1..", kMaxSide),
               shape_text(noise.sizes()));
  VLAE_CHECK(noise.numel() <= kMaxValues && noise.size(0) <= kMaxValues, kSample, "noise",
             text("have at most ", kMaxValues, " values"), shape_text(noise.sizes()));
  const int64_t pixels = noise.numel() / plan.noises();
  VLAE_CHECK(pixels <= kMaxValues / plan.params(), kSample, "noise",
             text("have at most ", kMaxValues / plan.params(), " pixels of ", plan.params(), " parameters"),
             shape_text(noise.sizes()));
}

ContextKind check_context(const std::optional<Tensor>& context, const Plan& plan, const Tensor& noise) {
  const bool wanted = plan.context_dim > 0;
  VLAE_CHECK(context.has_value() == wanted, kSample, "context", wanted ? "be given for this plan" : "be None for this plan",
             context ? shape_text(context->sizes()) : "None");
  if (!context) return ContextKind::none;
  check_like(kSample, "context", *context, noise);
  const std::vector<int64_t> flat = {noise.size(0), plan.context_dim};
  const std::vector<int64_t> full = {noise.size(0), noise.size(2), noise.size(3), plan.context_dim};
  VLAE_CHECK(has_shape(*context, flat) || has_shape(*context, full), kSample, "context",
             "be " + sizes_text(flat) + " or " + sizes_text(full), shape_text(context->sizes()));
  return context->dim() == 4 ? ContextKind::map : ContextKind::vector;
}

void check_known(const std::optional<Tensor>& mask, const std::optional<Tensor>& known, const Tensor& noise,
                 const std::vector<int64_t>& sizes) {
  VLAE_CHECK(mask.has_value() == known.has_value(), kSample, "known_mask and known", "be given together",
             mask ? "known_mask alone" : "known alone");
  if (!mask) return;
  check_on_device(kSample, "known_mask", *mask, noise);
  check_values(kSample, "known_mask", *mask, ScalarType::Bool, "bool");
  check_shape(kSample, "known_mask", *mask, sizes);
  check_like(kSample, "known", *known, noise);
  check_shape(kSample, "known", *known, sizes);
}

// The products of the context with the weights of all stages that see it: [B, pixels, columns].
Tensor conditions(const Tensor& noise, const Tensor& packed, const std::optional<Tensor>& context, const Plan& plan,
                  const Packing& packing, const Program& program, void* stream) {
  const int64_t rows = noise.size(0) * program.cond_pixels;
  VLAE_CHECK(rows <= kMaxValues, kSample, "context", text("have at most ", kMaxValues, " rows"), rows);
  Tensor cond = new_vector(noise, rows * program.cond_columns, ScalarType::Float);
  if (!context) return cond;
  const void* matrix = static_cast<const char*>(packed.const_data_ptr()) + packing.context * format_of(program.dtype).bytes;
  run_condition(kSample, program.dtype,
                {context->const_data_ptr(), matrix, cond.mutable_data_ptr<float>(), rows,
                 static_cast<int32_t>(plan.context_dim), program.cond_columns},
                stream);
  return cond;
}

void check_memory(const char* op, const Program& program, const Limits& limits) {
  const int64_t bytes = least_shared_bytes(program);
  VLAE_CHECK(bytes <= limits.shared_bytes, op, "plan", text("need at most ", limits.shared_bytes, " bytes of shared memory"),
             bytes);
}

// "", or why no image can be sampled by a plan whose weights are like this tensor, on its device.
std::string lacks(Tensor like, std::vector<int64_t> words) {
  const Plan plan = parse_plan(kSample, words);
  const Dtype dtype = dtype_of(kSample, "weights", like);
  const Current current(kSample, like);
  const Limits limits = device_limits(kSample);
  try {
    check_memory(kLacks, program_of(kLacks, plan, packing_of(kLacks, plan, dtype)), limits);
  } catch (const std::runtime_error& error) {
    return error.what();
  }
  return "";
}

// Returns the weights in the order that the kernel reads in `dtype`, themselves still in float32, and a header that says which
// plan and dtype they are for. Both are on the CPU.
std::tuple<Tensor, Tensor> pack(std::vector<Tensor> weights, std::vector<int64_t> words, std::string dtype) {
  const Plan plan = parse_plan(kPack, words);
  const std::vector<const float*> data = check_weights(kPack, weights, plan);
  const Packing packing = packing_of(kPack, plan, parse_dtype(kPack, dtype));
  Tensor packed = new_vector(weights[0], packing.size, ScalarType::Float);
  float* out = packed.mutable_data_ptr<float>();
  std::fill_n(out, packing.size, 0.0f);
  pack_weights(out, plan, packing, data.data());
  const std::vector<int64_t> wanted = header_of(plan, packing);
  Tensor header = new_vector(weights[0], static_cast<int64_t>(wanted.size()), ScalarType::Long);
  std::copy(wanted.begin(), wanted.end(), header.mutable_data_ptr<int64_t>());
  return {packed, header};
}

// Returns images [B, C, H, W], and the parameters [B, n, H, W] that each pixel was drawn from.
std::tuple<Tensor, Tensor> sample(Tensor noise, Tensor packed, Tensor header, std::vector<int64_t> words,
                                  std::optional<Tensor> context, std::optional<Tensor> known_mask, std::optional<Tensor> known,
                                  double temperature) {
  const Plan plan = parse_plan(kSample, words);
  check_noise(noise, plan);
  check_schedule(kSample, plan, noise.size(2), noise.size(3));
  const Packing packing = packing_of(kSample, plan, dtype_of(kSample, "noise", noise));
  check_packed(packed, header, plan, packing, noise);
  const ContextKind kind = check_context(context, plan, noise);
  const std::vector<int64_t> image = {noise.size(0), plan.image_channels(), noise.size(2), noise.size(3)};
  const std::vector<int64_t> all = {noise.size(0), plan.params(), noise.size(2), noise.size(3)};
  check_known(known_mask, known, noise, image);
  VLAE_CHECK(kLeastTemperature <= temperature && temperature <= kMostTemperature, kSample, "temperature",
             "be in [1e-100, 1e+100]", number_text(temperature));
  const Program program = bind(kSample, plan, packing, noise.size(2), noise.size(3), kind);

  Tensor images = torch::stable::new_empty(noise, image);
  Tensor params = torch::stable::new_empty(noise, all);
  if (noise.size(0) == 0) return {images, params};
  const Current current(kSample, noise);
  const Limits limits = device_limits(kSample);
  check_memory(kSample, program, limits);
  const Tiling tiling = tiling_of(program, noise.size(0), limits);
  Tensor caches = new_vector(noise, tiling.blocks * tiling.global_size, noise.scalar_type());
  const Tensor cond = conditions(noise, packed, context, plan, packing, program, current.stream());
  const Tensors tensors = {.packed = packed.const_data_ptr(),
                           .noise = noise.const_data_ptr(),
                           .known = known ? known->const_data_ptr() : nullptr,
                           .cond = floats(cond),
                           .known_mask = known_mask ? known_mask->const_data_ptr<bool>() : nullptr,
                           .images = images.mutable_data_ptr(),
                           .params = params.mutable_data_ptr(),
                           .temperature = temperature,
                           .batch = noise.size(0)};
  run_program(kSample, program, tiling, tensors, caches.mutable_data_ptr(), current.stream());
  return {images, params};
}

}  // namespace
}  // namespace vlae::cuda::pixelcnn_sample

VLAE_CUDA_SCHEMAS(m) {
  m.def("pixelcnn_lacks(Tensor like, int[] plan) -> str");
  m.def("pixelcnn_pack(Tensor[] weights, int[] plan, str dtype) -> (Tensor packed, Tensor header)");
  m.def(
      "pixelcnn_sample(Tensor noise, Tensor packed, Tensor header, int[] plan, Tensor? context, Tensor? known_mask, "
      "Tensor? known, float temperature) -> (Tensor images, Tensor logits)");
}

VLAE_CUDA_IMPL(CPU, m) { m.impl("pixelcnn_pack", TORCH_BOX(&vlae::cuda::pixelcnn_sample::pack)); }

VLAE_CUDA_IMPL(VLAE_GPU, m) {
  m.impl("pixelcnn_lacks", TORCH_BOX(&vlae::cuda::pixelcnn_sample::lacks));
  m.impl("pixelcnn_sample", TORCH_BOX(&vlae::cuda::pixelcnn_sample::sample));
}
