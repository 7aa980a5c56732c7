#include "plan.h"

#include "../checks.h"
#include "../narrow.h"
#include "../parse_activation.h"
#include "reads.h"

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
constexpr int64_t kMaxStride = 16;
constexpr int64_t kPlanVersion = 4;

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

Emit read_emit(Reader& in, const char* op) {
  Emit emit;
  emit.kind = static_cast<EmitKind>(in.next("emit", 0, 3));
  const bool binary = emit.kind == EmitKind::bernoulli, continuous = emit.kind == EmitKind::affine;
  const bool mixture = emit.kind == EmitKind::logistic_mixture;
  emit.levels = narrow<int32_t>(in.next("levels", continuous || mixture ? 0 : 2, continuous ? 0 : binary ? 2 : kMaxLevels));
  VLAE_CHECK(emit.levels != 1, op, "plan[3] (levels)", "be 0 or at least 2", emit.levels);
  emit.components = narrow<int32_t>(in.next("components", mixture, mixture ? kMaxComponents : 0));
  return emit;
}

PlanSource read_source(Reader& in, int64_t last) {
  PlanSource source;
  source.buffer = in.next("source buffer", 0, last);
  const int64_t taps = in.count("number of taps", INT64_MAX, 2);
  source.taps.reserve(usize(taps));
  for (int64_t i = 0; i < taps; ++i) {
    const int64_t dy = in.next("dy", -kMaxOffset, kMaxOffset);
    source.taps.push_back({dy, in.next("dx", -kMaxOffset, kMaxOffset)});
  }
  return source;
}

// last: the last buffer, for a stage may read what is written behind it.
PlanStage read_stage(Reader& in, int64_t last) {
  PlanStage stage;
  stage.out_channels = in.next("out_channels", 1, kMaxChannels);
  stage.activation = activation_of_code(in.next("activation", 0, last_code()));
  stage.residual = in.next("residual", -1, last);
  stage.context_dim = in.next("context_dim", 0, kMaxChannels);
  stage.lead = in.next("lead", -kMaxLead, kMaxLead);
  stage.kind = static_cast<StageKind>(in.next("kind", 0, 2));
  stage.factor = in.next("factor", -1, last);
  const int64_t stride = in.next("stride of the sites", 1, kMaxStride), row = in.next("row of the sites", 0, stride - 1);
  stage.sites = {stride, row, in.next("column of the sites", 0, stride - 1)};
  stage.joins = in.next("joins", -1, last);
  const bool attends = stage.kind == StageKind::attend;
  stage.heads = in.next("heads", attends, attends ? kMaxChannels : 0);
  const int64_t sources = in.count("number of sources", kMaxSources, 4);
  for (int64_t i = 0; i < sources; ++i) stage.sources.push_back(read_source(in, last));
  return stage;
}

void read_draws(Reader& in, const char* op, Plan& plan) {
  const int64_t stages = static_cast<int64_t>(plan.stages.size()), draws = in.count("number of draws", kMaxChannels, 2);
  VLAE_CHECK(draws == 1 || (draws == plan.image_channels() && plan.emit.kind != EmitKind::logistic_mixture), op, "plan",
             "have one draw of all channels, or one of each where they do not come from a mixture", draws);
  const int64_t count = plan.image_channels() / draws;
  for (int64_t d = 0, before = 0; d < draws; ++d) {
    before = in.next("stages before a draw", before, stages);
    plan.draws.push_back({before, in.next("buffer of a draw", 1, stages), d * count, count});
  }
}

void check_draw(const char* op, const Plan& plan, const PlanDraw& draw, int64_t writer) {
  const PlanStage& stage = plan.stages[usize(writer)];
  const std::string what = text("plan: stage ", writer, ", which is drawn from,");
  const int64_t params = plan.params() / plan.image_channels() * draw.count, least = writer >= draw.after;
  VLAE_CHECK(stage.activation == Activation::none, op, what, "have activation 0", static_cast<int>(stage.activation));
  const bool all = draw.count == plan.image_channels();
  VLAE_CHECK(stage.out_channels == (all ? plan.params() : params), op, what,
             text("have ", all ? plan.params() : params, " channels, the parameters"), stage.out_channels);
  VLAE_CHECK(stage.lead >= least, op, what, text("have a lead >= ", least), stage.lead);
}

bool reads_at(const PlanSource& source, int64_t dx) {
  return source.taps.size() == 1 && source.taps[0].dy == 0 && source.taps[0].dx == dx;
}

void check_norm(const char* op, const Plan& plan, size_t index) {
  const PlanStage& stage = plan.stages[index];
  const PlanSource& source = stage.sources[0];
  const bool own = stage.sources.size() == 1 && reads_at(source, 0);
  VLAE_CHECK(own && plan.channels[usize(source.buffer)] == stage.out_channels, op, text("plan: stage ", index, " of kind 1"),
             text("read one buffer of ", stage.out_channels, " channels at (0, 0)"), text(stage.sources.size(), " sources"));
  VLAE_CHECK(!is_pair(stage.activation) && stage.context_dim == 0, op, text("plan: stage ", index, " of kind 1"),
             "have an activation of one value and no context", static_cast<int>(stage.activation));
}

void check_attend(const char* op, const Plan& plan, size_t index) {
  const PlanStage& stage = plan.stages[index];
  const std::string what = text("plan: stage ", index, " of kind 2");
  VLAE_CHECK(stage.sources.size() == 3, op, what, "have three sources", stage.sources.size());
  const PlanSource &q = stage.sources[0], &k = stage.sources[1], &v = stage.sources[2];
  const bool itself = reads_at(k, 0);
  VLAE_CHECK(reads_at(q, 0) && (itself || reads_at(k, -1)) && reads_at(v, itself ? 0 : -1), op, what,
             "read q at (0, 0), k and v both there or both at (0, -1)", "other taps");
  const int64_t channels = plan.channels[usize(q.buffer)];
  VLAE_CHECK(channels == plan.channels[usize(k.buffer)] && plan.channels[usize(v.buffer)] == stage.out_channels, op, what,
             text("read k of ", channels, " and v of ", stage.out_channels, " channels"),
             text(plan.channels[usize(k.buffer)], " and ", plan.channels[usize(v.buffer)]));
  VLAE_CHECK(channels % stage.heads == 0 && stage.out_channels % stage.heads == 0, op, what,
             text("have heads that divide ", channels, " and ", stage.out_channels, " channels"), stage.heads);
  VLAE_CHECK(!is_pair(stage.activation) && stage.context_dim == 0, op, what, "have an activation of one value and no context",
             static_cast<int>(stage.activation));
  VLAE_CHECK(stage.sites.stride == 1, op, what, "have sites everywhere", text("stride ", stage.sites.stride));
}

void check_width(const char* op, const Plan& plan, size_t stage, const char* what, int64_t buffer) {
  const int64_t wanted = plan.stages[stage].out_channels;
  VLAE_CHECK(buffer < 0 || plan.channels[usize(buffer)] == wanted, op, text("plan: ", what, " of stage ", stage),
             text("have its ", wanted, " channels"), plan.channels[usize(buffer)]);
}

uint64_t fnv1a(const std::vector<int64_t>& words) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const int64_t word : words)
    for (int byte = 0; byte < 8; ++byte) hash = (hash ^ (static_cast<uint64_t>(word) >> (8 * byte) & 255)) * 0x100000001b3u;
  return hash;
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

Plan parse_plan(const char* op, const std::vector<int64_t>& words) {
  Reader in(op, words);
  VLAE_CHECK(words.empty() || words[0] == kPlanVersion, op, "plan", text("be of version ", kPlanVersion, ": make it anew"),
             words[0]);
  in.next("version", kPlanVersion, kPlanVersion);
  Plan plan;
  plan.channels.push_back(in.next("image channels", 1, kMaxChannels));
  plan.emit = read_emit(in, op);
  plan.slope = in.next("slope", 0, kMaxSlope);
  plan.context_dim = 0;
  const int64_t stages = in.count("number of stages", kMaxStages, 17);
  for (int64_t s = 0; s < stages; ++s) {
    plan.stages.push_back(read_stage(in, stages));
    const PlanStage& stage = plan.stages.back();
    plan.channels.push_back(stage.out_channels);
    VLAE_CHECK(stage.context_dim == 0 || plan.context_dim == 0 || stage.context_dim == plan.context_dim, op,
               text("plan: context_dim of stage ", s), text("be ", plan.context_dim, " like the stages before"),
               stage.context_dim);
    if (stage.context_dim > 0) plan.context_dim = stage.context_dim;
  }
  read_draws(in, op, plan);
  in.finish();
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    check_width(op, plan, s, "residual", plan.stages[s].residual);
    check_width(op, plan, s, "factor", plan.stages[s].factor);
    if (plan.stages[s].kind == StageKind::norm) check_norm(op, plan, s);
    if (plan.stages[s].kind == StageKind::attend) check_attend(op, plan, s);
  }
  place_phases(op, plan);
  check_reads(op, plan);
  for (const PlanDraw& draw : plan.draws)
    for_writers(plan, {1, 0, 0}, draw.buffer, {0, 0}, [&](int64_t writer) {
      VLAE_CHECK(writer >= 0, op, "plan", text("compute buffer ", draw.buffer, ", which is drawn from, at all pixels"), "less");
      check_draw(op, plan, draw, writer);
    });
  plan.checksum = fnv1a(words);
  return plan;
}

}  // namespace vlae
