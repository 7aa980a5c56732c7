// The backward op. A band's slope and its padded x stay in the nearest caches for all gradients: neither goes to memory.
#include <optional>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../../narrow.h"
#include "../panels.h"
#include "../workers.h"
#include "arguments.h"
#include "grad_weight.h"
#include "grad_x.h"

namespace vlae::masked_conv {
namespace {

constexpr const char* kOp = "masked_conv_backward";
constexpr int64_t kBandFloats = 48 << 10;             // of a band's slope and x
constexpr int64_t kChunkPixels = 2048;                // at least, or summing the chunks counts
constexpr int64_t kPartialFloats = int64_t{4} << 20;  // of all chunks' weight gradients

// Where the gradients go; nullptr for what is not wanted.
struct Gradients {
  float *x, *weight, *bias, *cond, *context, *context_weight;
  bool map;       // cond is [B, H, W, P]
  bool residual;  // the gradient of x has that of the output in it
};

class Backward {
 public:
  // context: as a 1x1 convolution by its weight.
  Backward(const ConvArguments& a, const std::optional<ConvArguments>& context, const Kernels& kernels,
           const SlopeData& upstream, const Gradients& to)
      : a_(a), context_(context), kernels_(kernels), upstream_(upstream), to_(to) {
    const Reach& reach = a.taps.reach;
    const int64_t vecs = vecs_of(a.activation, a.c, kernels.lanes), halo = reach.above + reach.below;
    slope_ = {a.activation, a.c, 0, vecs % 2 ? 1 : 2, 0, a.image, mirrored(reach), 0};
    slope_.planes = vecs / slope_.vecs;
    const bool tight = slope_.planes == 1 && a.activation != Activation::gate;
    slope_.pixel = tight ? a.c : slope_.vecs * kernels.lanes;
    columns_ = vecs * kernels.lanes;
    const int64_t padded = a.image.width + reach.left + reach.right;
    x_row_ = padded * a.c_in;
    const int64_t slope_row = padded * slope_.pixel;
    bands_ = cut_bands(a.batch, a.image, x_row_ + slope_.planes * slope_row, halo, kBandFloats);
    slope_.plane_floats = round_up((bands_.rows + halo) * slope_row + slope_.vecs * kernels.lanes, kernels.lanes);
    if (to.x) grad_x_.emplace(a, slope_, kernels, bands_.rows);
    if (to.context) grad_context_.emplace(*context_, slope_, kernels, bands_.rows);
    chunks_ = bands_.count();
    plan_weights();
    if (to.bias || (to.cond && !to.map)) sums_.resize(usize(bands_.count() * 2 * columns_));
  }

  void run() {
    const int64_t slope_floats = slope_.planes * slope_.plane_floats, halo = slope_.reach.above + slope_.reach.below;
    int64_t x_floats = to_.weight ? (bands_.rows + halo) * x_row_ : 0;
    if (to_.x) x_floats = std::max(x_floats, grad_x_->scratch_floats());
    x_floats = round_up(x_floats, kernels_.lanes);
    const Tasks tasks = {chunks_, chunks_, slope_floats + x_floats + bands_.rows * run_floats_};
    run_tasks(kOp, tasks, [&](int64_t chunk, const Worker& worker) {
      float* scratch = worker.scratch;
      if (grad_weight_) grad_weight_->clear(chunk);
      if (grad_context_weight_) grad_context_weight_->clear(chunk);
      for (int64_t band = bands_.count() * chunk / chunks_; band < bands_.count() * (chunk + 1) / chunks_; ++band)
        run_band(band, chunk, scratch, scratch + slope_floats, reinterpret_cast<Run*>(scratch + slope_floats + x_floats));
    });
    if (grad_weight_) grad_weight_->finish(to_.weight);
    if (grad_context_weight_) grad_context_weight_->finish(to_.context_weight);
    partials_of_thread().give_back();
    if (!sums_.empty()) sum_columns();
  }

 private:
  static constexpr int64_t run_floats_ = sizeof(Run) / sizeof(float);

  static KeptFloats& partials_of_thread() {
    static thread_local KeptFloats partials;
    return partials;
  }

  void plan_weights() {
    if (to_.weight) grad_weight_.emplace(a_, slope_, kernels_);
    if (to_.context_weight) grad_context_weight_.emplace(*context_, slope_, kernels_);
    if (!grad_weight_ && !grad_context_weight_) return;
    const int64_t own = grad_weight_ ? grad_weight_->floats_of_chunk() : 0;
    const int64_t all = own + (grad_context_weight_ ? grad_context_weight_->floats_of_chunk() : 0);
    const int64_t pixels = a_.batch * a_.image.height * a_.image.width;
    chunks_ = std::min({bands_.count(), pixels / kChunkPixels, kPartialFloats / std::max<int64_t>(all, 1)});
    chunks_ = std::max<int64_t>(chunks_, 1);
    const int64_t floats = std::max<int64_t>(chunks_ * all, 1);
    float* partials = partials_of_thread().take(floats);
    VLAE_CHECK(partials, kOp, "memory", text("hold ", 4 * floats, " bytes more"), "none");
    if (grad_weight_) grad_weight_->start(partials, chunks_);
    if (grad_context_weight_) grad_context_weight_->start(partials + chunks_ * own, chunks_);
  }

  void run_band(int64_t index, int64_t chunk, float* planes, float* x, Run* runs) const {
    const int64_t n = index / bands_.per_image, pixels = a_.image.height * a_.image.width;
    const Band band = band_at(bands_, a_.image, index);
    const int64_t at = n * pixels * a_.c;
    kernels_.slope(slope_, band,
                   {upstream_.grad + at, upstream_.out + at, upstream_.sigmoid + at, planes,
                    sums_.empty() ? nullptr : const_cast<float*>(sums_.data()) + index * 2 * columns_,
                    to_.cond && to_.map ? to_.cond + n * pixels * a_.p : nullptr});
    const float* residual = to_.residual ? upstream_.grad + at : nullptr;
    if (to_.x)
      grad_x_->run(band, planes, x, residual, to_.x + n * pixels * a_.c_in);  // x is not needed yet: its memory is scratch
    if (to_.weight) {
      pad_band(a_.x + n * pixels * a_.c_in, a_.image, a_.c_in, a_.taps.reach, band, x);
      const float* first = x + a_.taps.reach.above * x_row_ + a_.taps.reach.left * a_.c_in;
      grad_weight_->add(band, chunk, first, planes, runs);
    }
    if (to_.context) grad_context_->run(band, planes, x, nullptr, to_.context + n * pixels * context_->c_in);
    if (to_.context_weight) {
      const int64_t first = n * pixels + band.first * a_.image.width;
      grad_context_weight_->add(band, chunk, context_->x + first * context_->c_in, planes, runs);
    }
  }

  int64_t column(int64_t lane) const {
    return column_of(a_.activation, a_.c, lane / kernels_.lanes, lane % kernels_.lanes, kernels_.lanes);
  }

  void sum_columns() const {
    std::vector<double> all(usize(columns_)), image(usize(columns_));
    for (int64_t n = 0; n < bands_.images; ++n) {
      std::fill(image.begin(), image.end(), 0.0);
      for (int64_t band = n * bands_.per_image; band < (n + 1) * bands_.per_image; ++band)
        for (size_t i = 0; i < image.size(); ++i) image[i] += sums_[usize(band * 2 * columns_) + i];
      for (int64_t i = 0; i < columns_; ++i) {
        const float sum = static_cast<float>(image[usize(i)]);
        all[usize(i)] += sum;
        if (to_.cond && !to_.map && column(i) >= 0) to_.cond[n * a_.p + column(i)] = sum;
      }
    }
    for (int64_t i = 0; i < columns_ && to_.bias; ++i)
      if (column(i) >= 0) to_.bias[column(i)] = static_cast<float>(all[usize(i)]);
  }

  const ConvArguments& a_;
  const std::optional<ConvArguments>& context_;
  const Kernels& kernels_;
  const SlopeData upstream_;
  const Gradients to_;
  Bands bands_;
  Slope slope_;
  int64_t columns_, x_row_, chunks_ = 0;
  std::optional<GradX> grad_x_, grad_context_;
  std::optional<GradWeight> grad_weight_, grad_context_weight_;
  std::vector<float> sums_;
};

const float* check_like_grad(const std::string& name, const std::optional<Tensor>& tensor, bool wanted, const Tensor& grad) {
  VLAE_CHECK(!wanted || tensor, kOp, name, "be given with this activation", "None");
  if (!wanted) return floats(grad);
  check_float(kOp, name, *tensor);
  check_shape(kOp, name, *tensor, {grad.sizes().begin(), grad.sizes().end()});
  return floats(*tensor);
}

// The context and its weight as those of a 1x1 convolution.
std::optional<ConvArguments> context_arguments(const ConvArguments& a, const std::optional<Tensor>& context,
                                               const std::optional<Tensor>& weight) {
  const int64_t channels = check_context(kOp, context, weight, a);
  if (!context) return std::nullopt;
  ConvArguments of_context = a;
  of_context.taps = own_pixel();
  of_context.c_in = channels;
  of_context.x = floats(*context), of_context.weight = floats(*weight), of_context.live = nullptr;
  return of_context;
}

Tensor new_gradient(size_t index, const ConvArguments& a, const Tensor& weight, bool cond_map, int64_t context_channels) {
  if (index == 0) return new_image(a, a.c_in);
  if (index == 1) return torch::stable::new_empty(weight, weight.sizes());
  if (index == 3 && cond_map) return new_image(a, a.p);
  if (index == 4) return new_image(a, context_channels);
  const int64_t bias[] = {a.p}, cond[] = {a.batch, a.p}, context_weight[] = {a.p, context_channels};
  if (index == 2) return torch::stable::new_empty(weight, {bias, 1});
  return torch::stable::new_empty(weight, {index == 3 ? cond : context_weight, 2});
}

std::vector<Tensor> backward(Tensor grad, std::optional<Tensor> out, std::optional<Tensor> sigmoid, Tensor x, Tensor weight,
                             std::vector<int64_t> taps, std::optional<Tensor> live, std::string activation,
                             std::vector<int64_t> needs, bool cond_map, std::string isa_name, std::optional<Tensor> context,
                             std::optional<Tensor> context_weight, bool residual) {
  const Isa& isa = isa_by_name(kOp, isa_name);
  const ConvArguments a = check_conv(kOp, x, weight, taps, live, activation);
  const std::optional<ConvArguments> of_context = context_arguments(a, context, context_weight);
  check_float(kOp, "grad", grad);
  check_shape(kOp, "grad", grad, {a.batch, a.image.height, a.image.width, a.c});
  const SlopeData upstream = {floats(grad),
                              check_like_grad("out", out, a.activation != Activation::none, grad),
                              check_like_grad("sigmoid", sigmoid, a.activation == Activation::gate, grad),
                              nullptr,
                              nullptr,
                              nullptr};
  check_residual(kOp, residual, a);
  VLAE_CHECK(needs.size() == 6, kOp, "needs", "have 6 entries", needs.size());
  VLAE_CHECK(context || (!needs[4] && !needs[5]), kOp, "context", "be given where its gradients are wanted", "None");
  std::vector<Tensor> grads;
  float* to[6] = {};
  for (size_t i = 0; i < 6; ++i) {
    if (!needs[i]) continue;
    grads.push_back(new_gradient(i, a, weight, cond_map, of_context ? of_context->c_in : 0));
    to[i] = grads.back().mutable_data_ptr<float>();
    // what no pixel adds to, and what dead weights keep, is 0
    if (i == 1 || grad.numel() == 0) torch::stable::zero_(grads.back());
  }
  if (grad.numel() > 0)
    Backward(a, of_context, kernels_of(isa), upstream, {to[0], to[1], to[2], to[3], to[4], to[5], cond_map, residual}).run();
  return grads;
}

}  // namespace
}  // namespace vlae::masked_conv

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) {
  m.def(
      "masked_conv_backward(Tensor grad, Tensor? out, Tensor? sigmoid, Tensor x, Tensor weight, int[] taps, Tensor? live, "
      "str activation, int[] needs, bool cond_map, str isa, Tensor? context=None, Tensor? context_weight=None, bool "
      "residual=False) -> Tensor[]");
}

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) { m.impl("masked_conv_backward", TORCH_BOX(&vlae::masked_conv::backward)); }
