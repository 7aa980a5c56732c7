// The op's arguments: checked here, so that nothing behind this file can be led out of bounds.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../../narrow.h"
#include "../../pixelcnn_sample/limits.h"
#include "../../pixelcnn_sample/reads.h"
#include "../isa.h"
#include "../memory.h"
#include "arguments.h"
#include "bind.h"
#include "packing.h"
#include "run.h"

namespace vlae::pixelcnn_sample {

VLAE_KERNELS_OF(VLAE_FOR_EACH_BFLOAT16_ISA);

namespace {

constexpr const char* kSample = "pixelcnn_sample";

void check_noise(const Tensor& noise, const Plan& plan) {
  check_float(kSample, "noise", noise);
  VLAE_CHECK(noise.dim() == 4 && noise.size(1) == plan.noises(), kSample, "noise", text("be [B, ", plan.noises(), ", H, W]"),
             shape_text(noise.sizes()));
  check_sides(kSample, "noise", noise);
  const float* data = floats(noise);
  const int64_t n = plan.emit.kind == EmitKind::affine ? 0 : noise.numel();
  for (int64_t i = 0; i < n; ++i)
    VLAE_CHECK(0.0f <= data[i] && data[i] < 1.0f, kSample, "noise", "be in [0, 1)",
               number_text(data[i]) + text(" at index ", i));
}

void check_known(const std::optional<Tensor>& mask, const std::optional<Tensor>& known, const std::vector<int64_t>& sizes) {
  VLAE_CHECK(mask.has_value() == known.has_value(), kSample, "known_mask and known", "be given together",
             mask ? "known_mask alone" : "known alone");
  if (!mask) return;
  check_data(kSample, "known_mask", *mask, ScalarType::Bool, "bool");
  check_shape(kSample, "known_mask", *mask, sizes);
  check_float(kSample, "known", *known);
  check_shape(kSample, "known", *known, sizes);
}

// The caches of a call: new ones of its own, or those that it was lent.
class Caches {
 public:
  Caches(const std::optional<Tensor>& lent, int64_t samples, int64_t sample_floats) : own_(0) {
    const int64_t size = samples * sample_floats;
    if (lent) {
      check_float(kSample, "caches", *lent);
      VLAE_CHECK(lent->dim() == 1 && lent->numel() >= size, kSample, "caches", text("have at least ", size, " floats"),
                 shape_text(lent->sizes()));
      data_ = lent->mutable_data_ptr<float>();
      return;
    }
    own_ = ZeroedFloats(size);
    VLAE_CHECK(own_, kSample, "memory", text("hold ", size * 4, " bytes more"), "none");
    data_ = own_.data();
  }
  float* data() const { return data_; }

 private:
  ZeroedFloats own_;
  float* data_ = nullptr;
};

std::tuple<Tensor, Tensor> sample(Tensor noise, Tensor packed, std::vector<int64_t> words, std::optional<Tensor> context,
                                  std::optional<Tensor> known_mask, std::optional<Tensor> known, double temperature,
                                  std::optional<Tensor> caches) {
  const Plan plan = parse_plan(kSample, words);
  check_noise(noise, plan);
  const int64_t batch = noise.size(0), height = noise.size(2), width = noise.size(3);
  check_schedule(kSample, plan, height, width);
  const auto [isa, storage] = check_packed(kSample, packed, plan);
  const Packing packing = packing_of(kSample, plan, kernels_of(isa).lanes, storage);
  VLAE_CHECK(packed.numel() == packing.size, kSample, "packed", text("have ", packing.size, " floats"), packed.numel());
  const ContextTensor bound = check_context(kSample, context, plan, noise);
  const std::vector<int64_t> image = {batch, plan.image_channels(), height, width};
  const std::vector<int64_t> all = {batch, plan.params(), height, width};
  check_known(known_mask, known, image);
  VLAE_CHECK(kLeastTemperature <= temperature && temperature <= kMostTemperature, kSample, "temperature",
             "be in [1e-100, 1e+100]", number_text(temperature));

  Tensor images = new_like(kSample, noise, image);
  Tensor params = new_like(kSample, noise, all);
  if (batch == 0) return {images, params};
  const Draw draw = {plan.emit,
                     plan.noises(),
                     plan.params(),
                     floats(noise),
                     known ? floats(*known) : nullptr,
                     known_mask ? known_mask->const_data_ptr<bool>() : nullptr,
                     images.mutable_data_ptr<float>(),
                     params.mutable_data_ptr<float>(),
                     temperature};
  const BoundProgram program(kSample, plan, packing, floats(packed), height, width, bound, draw);
  const int threads = static_cast<int>(torch::stable::get_num_threads());
  const Caches held(caches, cached_samples(program.program(), batch, threads), program.program().sample_floats);
  run_program(kSample, program.program(), kernels_of(isa), batch, threads, held.data());
  return {images, params};
}

// Floats of the caches of a call with the same plan and packed weights.
int64_t cache_floats(Tensor packed, std::vector<int64_t> words, std::vector<int64_t> size, bool per_pixel, int64_t batch) {
  const Plan plan = parse_plan(kSample, words);
  VLAE_CHECK(size.size() == 2 && std::min(size[0], size[1]) >= 1 && std::max(size[0], size[1]) <= kMaxSide, kSample, "size",
             text("be two sides in 1..", kMaxSide), sizes_text(size));
  VLAE_CHECK(1 <= batch && batch <= kMaxFloats, kSample, "batch", text("be in 1..", kMaxFloats), batch);
  check_schedule(kSample, plan, size[0], size[1]);
  const auto [isa, storage] = check_packed(kSample, packed, plan);
  const Packing packing = packing_of(kSample, plan, kernels_of(isa).lanes, storage);
  const BoundProgram program(kSample, plan, packing, floats(packed), size[0], size[1], {nullptr, per_pixel}, {});
  const int threads = static_cast<int>(torch::stable::get_num_threads());
  return cached_samples(program.program(), batch, threads) * program.program().sample_floats;
}

}  // namespace
}  // namespace vlae::pixelcnn_sample

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) {
  m.def(
      "pixelcnn_sample(Tensor noise, Tensor packed, int[] plan, Tensor? context, Tensor? known_mask, Tensor? known, "
      "float temperature, Tensor(a!)? caches=None) -> (Tensor images, Tensor logits)");
  m.def("pixelcnn_cache_floats(Tensor packed, int[] plan, int[] size, bool per_pixel, int batch) -> int");
}

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) {
  m.impl("pixelcnn_cache_floats", TORCH_BOX(&vlae::pixelcnn_sample::cache_floats));
  m.impl("pixelcnn_sample", TORCH_BOX(&vlae::pixelcnn_sample::sample));
}
