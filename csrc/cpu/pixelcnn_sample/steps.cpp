// A run in steps: what a caller says of the pixels of one draw goes in, the parameters of the next draw come out.
#include <cmath>
#include <limits>

#include <torch/csrc/stable/library.h>

#include "../../narrow.h"
#include "../../pixelcnn_sample/draw.h"
#include "../../pixelcnn_sample/reads.h"
#include "arguments.h"
#include "packing.h"
#include "run.h"

namespace vlae::pixelcnn_sample {

VLAE_KERNELS_OF(VLAE_FOR_EACH_BFLOAT16_ISA);

namespace {

constexpr const char* kStep = "pixelcnn_step";
constexpr const char* kDraw = "pixelcnn_draw";

std::vector<int64_t> words_of(const Tensor& plan) {
  check_data(kStep, "plan", plan, ScalarType::Long, "int64");
  const int64_t* data = plan.const_data_ptr<int64_t>();
  return {data, data + plan.numel()};
}

// A level up to roundings, as vlae_fast/plan.py: Emit.holds has it; where there are none, any finite number, of a mixture one
// from 0 to 1.
bool holds(const Emit& emit, float value) {
  if (emit.levels == 0 && emit.kind == EmitKind::logistic_mixture) return 0 <= value && value <= 1;
  if (emit.levels == 0) return std::isfinite(value);
  const double top = emit.levels - 1, k = std::round(value * top);
  return std::abs(value - k / top) <= 4 * std::numeric_limits<float>::epsilon() && 0 <= k && k <= top;
}

void check_values(const Tensor& values, const Emit& emit, const std::vector<int64_t>& sizes) {
  check_float(kStep, "values", values);
  check_shape(kStep, "values", values, sizes);
  const float* data = floats(values);
  const int64_t n = values.numel();
  const bool mixture = emit.kind == EmitKind::logistic_mixture;
  const std::string rule = emit.levels == 0   ? (mixture ? "be from 0 to 1" : "be finite")
                           : emit.levels == 2 ? "be 0 or 1"
                                              : text("be k / ", emit.levels - 1, " for k = 0..", emit.levels - 1);
  for (int64_t i = 0; i < n; ++i) VLAE_CHECK(holds(emit, data[i]), kStep, "values", rule, number_text(data[i]));
}

// step: -1 at the start, without values, else where the values belong. Returns the parameters of the next draw, [B, P, pixels],
// [B, 0, 0] where none is left.
Tensor step(Tensor caches, Tensor images, Tensor logits, Tensor packed, Tensor words, std::optional<Tensor> context,
            int64_t step, int64_t draw, std::optional<Tensor> values) {
  const Plan plan = parse_plan(kStep, words_of(words));
  check_float(kStep, "images", images);
  VLAE_CHECK(images.dim() == 4 && images.size(1) == plan.image_channels(), kStep, "images",
             text("be [B, ", plan.image_channels(), ", H, W]"), shape_text(images.sizes()));
  check_sides(kStep, "images", images);
  const int64_t batch = images.size(0), height = images.size(2), width = images.size(3);
  check_float(kStep, "logits", logits);
  check_shape(kStep, "logits", logits, {batch, plan.params(), height, width});
  check_schedule(kStep, plan, height, width);
  const auto [isa, storage] = check_packed(kStep, packed, plan);
  const Packing packing = packing_of(kStep, plan, kernels_of(isa).lanes, storage);
  VLAE_CHECK(packed.numel() == packing.size, kStep, "packed", text("have ", packing.size, " floats"), packed.numel());
  const ContextTensor bound = check_context(kStep, context, plan, images);
  const Draw tensors = {plan.emit,
                        0,
                        plan.params(),
                        nullptr,
                        nullptr,
                        nullptr,
                        images.mutable_data_ptr<float>(),
                        logits.mutable_data_ptr<float>(),
                        1};
  const BoundProgram program_of(kStep, plan, packing, floats(packed), height, width, bound, tensors);
  const Program& program = program_of.program();
  check_float(kStep, "caches", caches);
  VLAE_CHECK(caches.numel() / program.sample_floats >= batch, kStep, "caches",
             text("have ", program.sample_floats, " floats for each image"), caches.numel());
  float* data = caches.mutable_data_ptr<float>();
  const Tile all = {data, 0, batch};

  VLAE_CHECK(-1 <= step && step < program.steps, kStep, "step", text("be in -1..", program.steps - 1), step);
  VLAE_CHECK(values.has_value() == (step >= 0), kStep, "values", "be given but for the start", values ? "a tensor" : "None");
  Cursor at;
  if (values) {
    VLAE_CHECK(0 <= draw && draw < program.n_draws, kStep, "draw", text("be in 0..", program.n_draws - 1), draw);
    const Wave wave = wave_at(program, kEverywhere, step);
    check_values(*values, plan.emit, {batch, program.draws[draw].count, wave.pixels});
    put_wave(program, program.draws[draw], wave, all, floats(*values));
    at = behind(program, step, draw);
  }
  at = run_to_draw(kStep, program, kernels_of(isa), batch, static_cast<int>(torch::stable::get_num_threads()), data, at);
  if (at.step == program.steps) return new_like(kStep, images, {batch, 0, 0});
  const DrawAt& next = program.draws[at.draw];
  const Wave wave = wave_at(program, kEverywhere, at.step);
  Tensor params = new_like(kStep, images, {batch, program.buffers[next.buffer].channels, wave.pixels});
  show_wave(program, next, wave, all, params.mutable_data_ptr<float>());
  return params;
}

// kind, levels, components: as in a plan.
Emit emit_of(const std::vector<int64_t>& words) {
  const bool known = words.size() == 3 && 0 <= words[0] && words[0] <= 3;
  const bool affine = known && words[0] == static_cast<int64_t>(EmitKind::affine);
  const bool mixture = known && words[0] == static_cast<int64_t>(EmitKind::logistic_mixture);
  VLAE_CHECK(known && (affine ? words[1] == 0 : (mixture && words[1] == 0) || (2 <= words[1] && words[1] <= 1 << 16)) &&
                 (mixture ? 1 <= words[2] && words[2] <= 1 << 10 : words[2] == 0),
             kDraw, "emit", "be a plan's kind, levels and components", sizes_text(words));
  return {static_cast<EmitKind>(words[0]), narrow<int32_t>(words[1]), narrow<int32_t>(words[2])};
}

// A pixel of tensors whose channels are `plane` floats apart.
struct DrawnPixel {
  int64_t plane, noise_plane;
  const float *params, *noises;
  float* values;

  double param(int64_t i) const { return params[i * plane]; }
  double noise(int64_t i) const { return noises[i * noise_plane]; }
  double drawn(int64_t c) const { return values[c * plane]; }
  void draw(int64_t c, double value) const { values[c * plane] = static_cast<float>(value); }
};

void check_noise(const Emit& emit, double noise) {
  if (emit.kind == EmitKind::affine)
    VLAE_CHECK(std::isfinite(noise), kDraw, "noise", "be finite", number_text(noise));
  else
    VLAE_CHECK(0 <= noise && noise < 1, kDraw, "noise", "be in [0, 1)", number_text(noise));
}

// Draws `channels` channels of the pixels (i, step - slope i) from row `top` on. noise: of a whole image, [B, n, H, W], of
// which those from plane `first` on are taken.
Tensor draw(Tensor params, Tensor noise, std::vector<int64_t> emit_words, int64_t channels, int64_t first,
            std::vector<int64_t> place, double temperature) {
  VLAE_CHECK(1 <= channels && channels <= 1 << 16, kDraw, "channels", "be in 1..65536", channels);
  Plan plan{};  // of a draw alone
  plan.channels = {channels};
  plan.emit = emit_of(emit_words);
  check_float(kDraw, "params", params);
  check_float(kDraw, "noise", noise);
  VLAE_CHECK(params.dim() == 3 && params.size(1) == plan.params(), kDraw, "params", text("be [B, ", plan.params(), ", pixels]"),
             shape_text(params.sizes()));
  const int64_t batch = params.size(0), pixels = params.size(2);
  VLAE_CHECK(noise.dim() == 4 && noise.size(0) == batch && 0 <= first && first <= noise.size(1) - plan.noises(), kDraw, "noise",
             text("be [", batch, ", n, H, W] with planes for this draw"), shape_text(noise.sizes()));
  check_sides(kDraw, "noise", noise);
  const int64_t height = noise.size(2), width = noise.size(3), planes = noise.size(1);
  VLAE_CHECK(place.size() == 3, kDraw, "place", "be step, slope, top", sizes_text(place));
  const int64_t step = place[0], slope = place[1], top = place[2];
  const auto inside = [&](int64_t i) { return 0 <= i && i < height && 0 <= step - slope * i && step - slope * i < width; };
  VLAE_CHECK(0 <= slope && slope <= 1 << 21 && 0 <= step && step <= int64_t{1} << 42 && inside(top) && inside(top + pixels - 1),
             kDraw, "place", "lie in the image", sizes_text(place));
  VLAE_CHECK(kLeastTemperature <= temperature && temperature <= kMostTemperature, kDraw, "temperature",
             "be in [1e-100, 1e+100]", number_text(temperature));
  Tensor values = new_like(kDraw, params, {batch, channels, pixels});
  float* out = values.mutable_data_ptr<float>();
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t k = 0; k < pixels; ++k) {
      const int64_t i = top + k, plane = height * width;
      const float* own = floats(noise) + (b * planes + first) * plane + i * width + step - slope * i;
      for (int64_t n = 0; n < plan.noises(); ++n) check_noise(plan.emit, own[n * plane]);
      draw_pixel(
          plan.emit, channels, temperature,
          DrawnPixel{pixels, plane, floats(params) + b * plan.params() * pixels + k, own, out + b * channels * pixels + k});
    }
  return values;
}

}  // namespace
}  // namespace vlae::pixelcnn_sample

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) {
  m.def(
      "pixelcnn_step(Tensor(a!) caches, Tensor(b!) images, Tensor(c!) logits, Tensor packed, Tensor plan, Tensor? context, "
      "int step, int draw, Tensor? values) -> Tensor");
  m.def(
      "pixelcnn_draw(Tensor params, Tensor noise, int[] emit, int channels, int first, int[] place, float temperature) -> "
      "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) {
  m.impl("pixelcnn_step", TORCH_BOX(&vlae::pixelcnn_sample::step));
  m.impl("pixelcnn_draw", TORCH_BOX(&vlae::pixelcnn_sample::draw));
}
