// Runs the kernels for a sanitizer to watch, without Python: a call for each line of a file, with random weights and inputs.
//   sample DTYPE BATCH HEIGHT WIDTH PROCESSORS SHARED_BYTES WORDS...   words: of a plan, cf. pixelcnn_sample/plan.h
//   invert DTYPE BATCH STEPS DIM HIDDEN...
// DTYPE: a number of Dtype. Prints each line before its call. VLAE_HOST_MERGED=STAGE, the last one of a section, takes away the
// barrier behind it.
#include <cstdio>
#include <deque>
#include <fstream>
#include <iostream>
#include <iterator>
#include <random>
#include <sstream>

#include "cuda/conversions.h"
#include "cuda/made_inverse/kernel.h"
#include "cuda/made_inverse/plan.h"
#include "cuda/pixelcnn_sample/bind.h"
#include "cuda/pixelcnn_sample/kernel.h"

using namespace vlae;
using namespace vlae::cuda;

namespace {

using Numbers = std::vector<int64_t>;

std::mt19937 rng;

template <typename T>
std::vector<T> random_values(int64_t count, float scale) {
  std::vector<T> values(static_cast<size_t>(count));
  std::normal_distribution<float> normal;
  for (T& value : values) value = from_float<T>(scale * normal(rng));
  return values;
}

template <typename T>
bool all_finite(const std::vector<T>& values) {
  for (const T value : values)
    if (!std::isfinite(to_float(value))) return false;
  return true;
}

void check(bool ok, const char* rule) {
  if (!ok) throw std::runtime_error(std::string("watched: ") + rule);
}

void merge_sections(pixelcnn_sample::Program& p) {
  const char* last = std::getenv("VLAE_HOST_MERGED");
  if (!last) return;
  const int32_t end = std::atoi(last) + 1;
  check(0 < end && end < p.n_stages && p.stages[end - 1].end == end, "the stage that is named must end a section");
  for (int32_t s = 0; s < end; ++s)
    if (p.stages[s].end == end) p.stages[s].end = p.stages[end].end;
  link_stages(p);
}

template <typename T>
void sample(int64_t batch, int64_t height, int64_t width, const pixelcnn_sample::Limits& limits, const Numbers& words) {
  using namespace pixelcnn_sample;
  const Plan plan = parse_plan("watched", words);
  const Packing packing = packing_of("watched", plan, dtype_of<T>);
  const ContextKind context = plan.context_dim > 0 ? ContextKind::vector : ContextKind::none;
  Program program = bind("watched", plan, packing, height, width, context);
  merge_sections(program);
  const Tiling tiling = tiling_of(program, batch, limits);
  const int64_t pixels = batch * height * width;
  std::vector<T> packed = random_values<T>(packing.size, 0.01f);
  for (T& weight : packed) weight = from_float<T>(std::fabs(to_float(weight)));  // one is what a norm adds to a variance
  std::vector<T> noise(static_cast<size_t>(pixels * plan.noises()), from_float<T>(0.5f));
  std::vector<T> images(static_cast<size_t>(pixels * plan.image_channels()));
  std::vector<T> params(static_cast<size_t>(pixels * plan.params()));
  std::vector<T> caches(static_cast<size_t>(tiling.blocks * tiling.global_size));
  const std::vector<float> cond = random_values<float>(batch * program.cond_pixels * program.cond_columns, 0.1f);
  const Tensors tensors = {.packed = packed.data(),
                           .noise = noise.data(),
                           .known = nullptr,
                           .cond = cond.data(),
                           .known_mask = nullptr,
                           .images = images.data(),
                           .params = params.data(),
                           .temperature = 1.0,
                           .batch = batch};
  run_program("watched", program, tiling, tensors, caches.data(), nullptr);
  check(all_finite(images) && all_finite(params), "images must be finite");
}

std::vector<Numbers> degrees_of(int64_t dim, const Numbers& hidden) {
  std::vector<Numbers> degrees(1);
  for (int64_t i = 1; i <= dim; ++i) degrees[0].push_back(i);
  for (const int64_t units : hidden) {
    degrees.emplace_back();
    for (int64_t i = 0; i < units; ++i) degrees.back().push_back(1 + i * std::max<int64_t>(1, dim - 1) / units);
  }
  degrees.emplace_back();
  for (int64_t i = 0; i < 2 * dim; ++i) degrees.back().push_back(i % dim);
  return degrees;
}

template <typename T>
void invert(int64_t batch, int64_t steps, int64_t dim, const Numbers& hidden) {
  using namespace made_inverse;
  const std::vector<Numbers> degrees = degrees_of(dim, hidden);
  const MadePlan plan = plan_made("watched", degrees);
  const Walk walk = {plan.quads.data(), plan.events.data(), plan.blocks.data(), plan.order.data(),
                     static_cast<int32_t>(plan.blocks.size() - 1)};
  Layers layers = {};
  layers.steps = static_cast<int32_t>(steps);
  layers.per_step = static_cast<int32_t>(degrees.size() - 1);
  std::deque<std::vector<T>> kept;
  for (int i = 0; i < layers.steps * layers.per_step; ++i) {
    const size_t layer = static_cast<size_t>(i % layers.per_step);
    const auto inputs = static_cast<int64_t>(degrees[layer].size()), units = static_cast<int64_t>(degrees[layer + 1].size());
    layers.weights[i] = kept.emplace_back(random_values<T>(inputs * units, 0.05f)).data();
    layers.biases[i] = kept.emplace_back(random_values<T>(units, 0.05f)).data();
    layers.inputs[i] = static_cast<int32_t>(inputs);
  }
  const auto values = static_cast<int64_t>(plan.order.size());
  const std::vector<T> eps = random_values<T>(batch * dim, 1);
  std::vector<T> x(static_cast<size_t>(steps * batch * dim)), log_det(static_cast<size_t>(batch));
  std::vector<T> packed(static_cast<size_t>(steps * kLaneRows * plan.fours));
  std::vector<float> known(static_cast<size_t>(batch * values));
  const Batch all = {.eps = eps.data(),
                     .cond = nullptr,
                     .x = x.data(),
                     .log_det = log_det.data(),
                     .known = known.data(),
                     .size = batch,
                     .steps = layers.steps,
                     .dim = static_cast<int32_t>(dim),
                     .cond_size = static_cast<int32_t>(hidden.empty() ? 2 * dim : hidden[0]),
                     .values = static_cast<int32_t>(values),
                     .outputs = layers.per_step,
                     .affine = true,
                     .activation = Activation::elu,
                     .scale = MadeScale::exp};
  const Counts counts = {static_cast<int64_t>(plan.quads.size()), static_cast<int64_t>(plan.events.size()), plan.fours,
                         plan.event_fours};
  run_pack("watched", dtype_of<T>, walk, counts, layers, packed.data(), nullptr);
  run_inverse("watched", dtype_of<T>, walk, counts, packed.data(), all, nullptr);
  check(all_finite(x) && all_finite(log_det), "x must be finite");
}

void run(const std::string& line) {
  std::istringstream words(line);
  std::string what;
  int32_t dtype = 0;
  words >> what >> dtype;
  const Numbers given{std::istream_iterator<int64_t>(words), {}};
  with_type(static_cast<Dtype>(dtype), [&](auto zero) {
    using T = decltype(zero);
    if (what == "sample")
      sample<T>(given[0], given[1], given[2], {static_cast<int32_t>(given[3]), static_cast<int32_t>(given[4])},
                {given.begin() + 5, given.end()});
    else
      invert<T>(given[0], given[1], given[2], {given.begin() + 3, given.end()});
  });
}

}  // namespace

int main(int, char** arguments) {
  std::ifstream file(arguments[1]);
  for (std::string line; std::getline(file, line);) {
    std::printf("%.60s\n", line.c_str());
    std::fflush(stdout);
    run(line);
  }
}
