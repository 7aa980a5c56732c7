#include "plan.h"

#include "../checks.h"
#include "../narrow.h"
#include "../parse_activation.h"

namespace vlae {

namespace {

// Wide enough for any model, narrow enough that no product of two of them overflows.
constexpr int64_t kMaxChannels = int64_t{1} << 16;
constexpr int64_t kMaxStages = int64_t{1} << 12;
constexpr int64_t kMaxOffset = int64_t{1} << 20;
constexpr int64_t kMaxSlope = int64_t{1} << 21;
constexpr int64_t kMaxLevels = int64_t{1} << 16;
constexpr int64_t kMaxComponents = int64_t{1} << 10;
constexpr int64_t kMaxLead = int64_t{1} << 42;

class Reader {
 public:
  Reader(const char* op, const std::vector<int64_t>& words) : op_(op), words_(words) {}

  int64_t next(const char* what, int64_t low, int64_t high) {
    VLAE_CHECK(at_ < words_.size(), op_, "plan", text("go on with ", what), text("its end after ", words_.size(), " numbers"));
    const int64_t value = words_[at_++];
    VLAE_CHECK(low <= value && value <= high, op_, text("plan[", at_ - 1, "] (", what, ")"), text("be in ", low, "..", high),
               value);
    return value;
  }

  // A count of things that take `words` numbers each, so that no count can ask for more memory than the plan itself.
  int64_t count(const char* what, int64_t high, int64_t words) {
    const int64_t n = next(what, 1, high);
    const int64_t left = static_cast<int64_t>(words_.size() - at_);
    VLAE_CHECK(n <= left / words, op_, text("plan[", at_ - 1, "] (", what, ")"), "fit the plan's length",
               text(n, " with ", left, " numbers left"));
    return n;
  }

  void finish() const { VLAE_CHECK(at_ == words_.size(), op_, "plan", text("end after ", at_, " numbers"), words_.size()); }

 private:
  const char* op_;
  const std::vector<int64_t>& words_;
  size_t at_ = 0;
};

Emit read_emit(Reader& in) {
  Emit emit;
  emit.kind = static_cast<EmitKind>(in.next("emit", 0, 3));
  const bool binary = emit.kind == EmitKind::bernoulli, continuous = emit.kind == EmitKind::affine;
  const bool mixture = emit.kind == EmitKind::logistic_mixture;
  emit.levels = narrow<int32_t>(in.next("levels", continuous ? 0 : 2, continuous ? 0 : binary ? 2 : kMaxLevels));
  emit.components = narrow<int32_t>(in.next("components", mixture, mixture ? kMaxComponents : 0));
  return emit;
}

PlanSource read_source(Reader& in, int64_t stage) {
  PlanSource source;
  source.buffer = in.next("source buffer", 0, stage);
  const int64_t taps = in.count("number of taps", INT64_MAX, 2);
  source.taps.reserve(usize(taps));
  for (int64_t i = 0; i < taps; ++i) {
    const int64_t dy = in.next("dy", -kMaxOffset, kMaxOffset);
    source.taps.push_back({dy, in.next("dx", -kMaxOffset, kMaxOffset)});
  }
  return source;
}

PlanStage read_stage(Reader& in, int64_t index) {
  PlanStage stage;
  stage.out_channels = in.next("out_channels", 1, kMaxChannels);
  stage.activation = activation_of_code(in.next("activation", 0, last_code()));
  stage.residual = in.next("residual", -1, index);
  stage.context_dim = in.next("context_dim", 0, kMaxChannels);
  stage.lead = in.next("lead", -kMaxLead, kMaxLead);
  const int64_t sources = in.count("number of sources", kMaxSources, 4);
  for (int64_t i = 0; i < sources; ++i) stage.sources.push_back(read_source(in, index));
  return stage;
}

void check_last(const char* op, const Plan& plan) {
  const PlanStage& last = plan.stages.back();
  VLAE_CHECK(last.activation == Activation::none, op, "plan", "end with a stage of activation 0",
             static_cast<int>(last.activation));
  VLAE_CHECK(last.out_channels == plan.params(), op, "plan",
             text("end with a stage of ", plan.params(), " channels, the parameters of a pixel"), last.out_channels);
  VLAE_CHECK(last.lead >= 0, op, "plan", "end with a stage of lead >= 0", last.lead);
}

uint64_t fnv1a(const std::vector<int64_t>& words) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const int64_t word : words)
    for (int byte = 0; byte < 8; ++byte) hash = (hash ^ (static_cast<uint64_t>(word) >> (8 * byte) & 255)) * 0x100000001b3u;
  return hash;
}

// The image counts as a stage of lead -1: its pixel is drawn after every stage of the same step.
void check_read(const char* op, const Plan& plan, size_t stage, int64_t buffer, const Tap& tap) {
  const int64_t lead = buffer == 0 ? -1 : plan.stages[usize(buffer - 1)].lead;
  const int64_t latest = lead - tap.dx - plan.slope * tap.dy;
  VLAE_CHECK(plan.stages[stage].lead <= latest, op, text("plan: lead of stage ", stage),
             text("be at most ", latest, " to read buffer ", buffer, " at (", tap.dy, ", ", tap.dx, ")"),
             plan.stages[stage].lead);
}

}  // namespace

int64_t Plan::params() const {
  const int64_t c = image_channels();
  switch (emit.kind) {
    case EmitKind::bernoulli: return c;
    case EmitKind::categorical: return c * emit.levels;
    case EmitKind::logistic_mixture: return emit.components * (1 + 2 * c + c * (c - 1) / 2);
    case EmitKind::affine: return 2 * c;
  }
  __builtin_unreachable();
}

int64_t Plan::noises() const { return image_channels() + (emit.kind == EmitKind::logistic_mixture); }

bool lands(const Tap& tap, int64_t height, int64_t width) {
  return -height < tap.dy && tap.dy < height && -width < tap.dx && tap.dx < width;
}

Plan parse_plan(const char* op, const std::vector<int64_t>& words) {
  Reader in(op, words);
  in.next("version", 2, 2);
  Plan plan;
  plan.channels.push_back(in.next("image channels", 1, kMaxChannels));
  plan.emit = read_emit(in);
  plan.slope = in.next("slope", 0, kMaxSlope);
  plan.context_dim = 0;
  const int64_t stages = in.count("number of stages", kMaxStages, 10);
  for (int64_t s = 0; s < stages; ++s) {
    plan.stages.push_back(read_stage(in, s));
    const PlanStage& stage = plan.stages.back();
    VLAE_CHECK(stage.residual < 0 || plan.channels[usize(stage.residual)] == stage.out_channels, op,
               text("plan: residual of stage ", s), text("have its ", stage.out_channels, " channels"),
               plan.channels[usize(stage.residual)]);
    plan.channels.push_back(stage.out_channels);
    VLAE_CHECK(stage.context_dim == 0 || plan.context_dim == 0 || stage.context_dim == plan.context_dim, op,
               text("plan: context_dim of stage ", s), text("be ", plan.context_dim, " like the stages before"),
               stage.context_dim);
    if (stage.context_dim > 0) plan.context_dim = stage.context_dim;
  }
  in.finish();
  check_last(op, plan);
  plan.checksum = fnv1a(words);
  return plan;
}

void check_schedule(const char* op, const Plan& plan, int64_t height, int64_t width) {
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const PlanStage& stage = plan.stages[s];
    for (const PlanSource& source : stage.sources)
      for (const Tap& tap : source.taps)
        if (lands(tap, height, width)) check_read(op, plan, s, source.buffer, tap);
    if (stage.residual >= 0) check_read(op, plan, s, stage.residual, {0, 0});
  }
}

}  // namespace vlae
