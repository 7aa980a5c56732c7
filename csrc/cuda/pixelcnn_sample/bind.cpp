#include "bind.h"

#include <algorithm>

#include "../../checks.h"
#include "../../narrow.h"
#include "../../pixelcnn_sample/reads.h"
#include "sections.h"
#include "tiling.h"

namespace vlae::cuda::pixelcnn_sample {

namespace {

constexpr int64_t kMaxSteps = int64_t{1} << 22;
constexpr int64_t kMaxSampleSize = int64_t{1} << 28;

// Finds for each buffer how many waves ago the oldest value that is still read was written, by the stage that is most ahead of
// those that write it. The draws write the image, as a stage of lead 0 would, and read buffers.
std::vector<int64_t> find_ages(const Plan& plan, int64_t height, int64_t width) {
  std::vector<int64_t> ages(plan.channels.size());
  std::vector<int64_t> leads(plan.channels.size(), INT64_MIN);
  leads[0] = 0;
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    int64_t& lead = leads[usize(plan.written_by(s))];
    lead = std::max(lead, plan.stages[s].lead);
  }
  const auto read = [&](int64_t buffer, int64_t by, const Tap& tap) {
    int64_t& age = ages[usize(buffer)];
    age = std::max(age, leads[usize(buffer)] - by - tap.dx - plan.slope * tap.dy);
  };
  for (const PlanStage& stage : plan.stages) {
    for (const PlanSource& source : stage.sources)
      for (const Tap& tap : source.taps)
        if (lands(tap, height, width)) read(source.buffer, stage.lead, tap);
    for (const int64_t buffer : {stage.residual, stage.factor})
      if (buffer >= 0) read(buffer, stage.lead, {0, 0});
  }
  for (const PlanDraw& draw : plan.draws) read(draw.buffer, 0, {0, 0});
  return ages;
}

// Places a ring of the last `age + 1` waves of each buffer: the wave being written takes the slot of a wave that nobody reads.
void place_rings(const char* op, const Plan& plan, Program& p) {
  const std::vector<int64_t> ages = find_ages(plan, p.height, p.width);
  const Format format = format_of(p.dtype);
  int64_t size = 0;
  for (size_t m = 0; m < ages.size(); ++m) {
    if (!plan.is_own(m)) continue;  // the stage of that number writes another one
    const int64_t waves = std::min<int64_t>(ages[m] + 1, p.steps), stride = apart(p.dtype, p.rings[m].groups * format.group);
    p.rings[m].at = static_cast<int32_t>(size);
    p.rings[m].stride = static_cast<int32_t>(stride);
    p.rings[m].waves = divisor_of(waves);
    VLAE_CHECK(waves * p.rows.value <= (kMaxSampleSize - size) / stride, op, "plan",
               text("keep at most ", kMaxSampleSize, " activations of a sample"),
               text(waves, " waves of ", p.rows.value, " rows of ", plan.channels[m], " channels"));
    size += waves * p.rows.value * stride;
    p.zero_size = std::max(p.zero_size, static_cast<int32_t>(stride));
  }
  p.sample_size = static_cast<int32_t>(p.dtype == Dtype::float32 ? apart(p.dtype, size) : size);
}

// Counts what list_entries lists of a stage.
void add_entries(Program& p, Stage& stage) {
  const int32_t batch = format_of(p.dtype).batch;
  stage.first_entry = p.n_entries;
  stage.n_entries = 1 + (stage.residual >= 0) + (stage.factor >= 0) + (stage.cond >= 0);
  for (int32_t tap = 0; tap < stage.n_taps; ++tap)
    stage.n_entries += batches_of(first_read(p, stage, tap), first_read(p, stage, tap + 1), batch);
  p.n_entries += stage.n_entries;
}

// Its places begin a batch of reads.
void add_places(Program& p, Stage& stage) {
  stage.place = p.places;
  stage.places += stage.place;
  p.places += stage.reads() + kPlaces;
}

void add_taps(const PlanStage& from, Program& p, Stage& stage, int32_t& n_taps) {
  stage.taps = n_taps;
  int32_t group = 0;
  for (const PlanSource& source : from.sources)
    for (const Tap& tap : source.taps) {
      p.taps[n_taps++] = {static_cast<int32_t>(source.buffer), static_cast<int32_t>(tap.dy), static_cast<int32_t>(tap.dx),
                          group};
      group += p.rings[source.buffer].groups;
    }
  stage.n_taps = n_taps - stage.taps;
}

Kind kind_of(const PlanStage& stage) {
  if (stage.kind == StageKind::norm) return Kind::norm;
  if (stage.factor >= 0) return Kind::factor;
  if (stage.residual >= 0) return Kind::residual;
  return stage.activation == Activation::gate ? Kind::gate : Kind::plain;
}

Stage stage_of(const PlanStage& from, int64_t out, const StagePacking& place, Dtype dtype) {
  Stage stage = {};
  stage.out = static_cast<int8_t>(out);
  stage.stride = divisor_of(from.sites.stride);
  stage.row = static_cast<uint8_t>(from.sites.row);
  stage.column = static_cast<uint8_t>(from.sites.column);
  stage.activation = from.activation;
  stage.channels = static_cast<int32_t>(from.out_channels);
  stage.columns = static_cast<int32_t>(place.columns);
  stage.lead = static_cast<int32_t>(from.lead);
  stage.residual = static_cast<int8_t>(from.residual);
  stage.factor = static_cast<int8_t>(from.factor);
  stage.kind = kind_of(from);
  const Format format = format_of(dtype);
  stage.tiles = static_cast<int32_t>(place.groups * format.group / kTile);
  stage.places = std::max(static_cast<int32_t>(place.groups), stage.kind == Kind::norm ? format.batch : 0);  // behind the first
  stage.bias = static_cast<int32_t>(place.bias * format.bytes / 8);
  stage.weight = static_cast<int32_t>(place.weight / format.aligned());
  stage.cond = -1;
  return stage;
}

// Not inlined: where it is, the vectoriser of GCC 12 fails (an internal error) on the loop that fills the draws.
[[gnu::noinline]] DrawAt draw_of(const PlanDraw& from, int64_t params) {
  DrawAt draw = {};
  draw.after = static_cast<int32_t>(from.after);
  draw.buffer = static_cast<int32_t>(from.buffer);
  draw.first = static_cast<int32_t>(from.first);
  draw.count = static_cast<int32_t>(from.count);
  draw.params = divisor_of(params);
  return draw;
}

void check_limits(const char* op, const Plan& plan) {
  VLAE_CHECK(plan.stages.size() <= kMaxStages, op, "plan", text("have at most ", kMaxStages, " stages"), plan.stages.size());
  size_t taps = 0;
  for (const PlanStage& stage : plan.stages)
    for (const PlanSource& source : stage.sources) taps += source.taps.size();
  VLAE_CHECK(plan.draws.size() <= kMaxDraws, op, "plan", text("have at most ", kMaxDraws, " draws"), plan.draws.size());
  VLAE_CHECK(taps <= kMaxTaps, op, "plan", text("have at most ", kMaxTaps, " taps"), taps);
}

void check_image(const char* op, const Plan& plan, int64_t height, int64_t width, int64_t steps) {
  VLAE_CHECK(steps <= kMaxSteps, op, "plan", text("take at most ", kMaxSteps, " steps"), steps);
  for (const PlanStage& stage : plan.stages)
    VLAE_CHECK(std::abs(stage.lead) <= width + plan.slope * height, op, "plan",
               text("have leads of at most ", width + plan.slope * height, ", all waves of the image"), stage.lead);
}

// The stages in the plan's order, as conditions and biases come.
std::vector<Stage> stages_of(const Plan& plan, const Packing& packing, Program& p) {
  std::vector<Stage> stages;
  int32_t cond = 0;
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    Stage& stage = stages.emplace_back(stage_of(plan.stages[s], plan.written_by(s), packing.stages[s], p.dtype));
    if (plan.stages[s].context_dim > 0) {
      stage.cond = cond;
      cond += stage.columns;
    }
    add_taps(plan.stages[s], p, stage, p.n_taps);
  }
  return stages;
}

// Warps take the columns of a section in turn, those of one stage behind those of another.
void add_section(const std::vector<Stage>& stages, const Section& section, Program& p) {
  const int32_t places = p.places, end = p.n_stages + static_cast<int32_t>(section.size());
  int32_t warp = 0;
  for (const size_t s : section) {
    Stage& stage = p.stages[p.n_stages++] = stages[s];
    stage.end = static_cast<uint8_t>(end);
    stage.warp = warp;
    warp = (warp + stage.columns / static_cast<int32_t>(kTile)) % kWarps;
    add_places(p, stage);
    add_entries(p, stage);
  }
  p.most_places = std::max(p.most_places, p.places - places);
}

void add_stages(const Plan& plan, const Packing& packing, Program& p) {
  const std::vector<Stage> stages = stages_of(plan, packing, p);
  std::vector<int64_t> places;
  for (const Stage& stage : stages) places.push_back(stage.reads() + kPlaces);
  for (const Section& section : sections_of(plan, places, most_places(p.dtype))) add_section(stages, section, p);
}

// A norm's rows are shared among all warps.
bool takes_part(const Stage& stage, int warp) {
  return stage.kind == Kind::norm || (warp - stage.warp + kWarps) % kWarps < stage.columns / static_cast<int32_t>(kTile);
}

// The first of stages from, from + 1, ... , round and round, in which a warp takes part.
int32_t turn_from(const Program& p, int32_t from, int warp) {
  for (int32_t i = 0; i < p.n_stages; ++i)
    if (const int32_t s = (from + i) % p.n_stages; takes_part(p.stages[s], warp)) return s;
  return kMaxStages;
}

}  // namespace

void link_stages(Program& p) {
  p.n_sections = 0;
  for (int32_t s = 0, first = 0; s < p.n_stages; ++s) {
    Stage& stage = p.stages[s];
    stage.section = p.n_sections;
    for (int warp = 0; warp < kWarps; ++warp) {
      const int32_t next = turn_from(p, s + 1, warp);
      const bool is_behind = next != kMaxStages && (next <= s || next >= stage.end);
      stage.next[warp] = static_cast<uint8_t>(next + (is_behind ? kBehind : 0));
      stage.again[warp] = static_cast<uint8_t>(turn_from(p, first, warp));
    }
    if (s + 1 == stage.end) first = stage.end, ++p.n_sections;
  }
  for (int32_t d = 0; d < p.n_draws; ++d)
    p.draws[d].sections = p.draws[d].after ? p.stages[p.draws[d].after - 1].section + 1 : 0;
  p.busy = 0;
  for (int32_t s = 0; s < p.n_stages; ++s)
    if (p.stages[s].section == p.draws[p.n_draws - 1].sections - 1)
      p.busy += p.stages[s].kind == Kind::norm ? kWarps : p.stages[s].columns / static_cast<int32_t>(kTile);
  if (p.busy > kWarps / 2) p.busy = 0;
}

Program program_of(const char* op, const Plan& plan, const Packing& packing) {
  check_limits(op, plan);
  const int64_t group = format_of(packing.dtype).group;
  Program p = {};
  p.dtype = packing.dtype;
  p.slope = divisor_of(plan.slope);
  p.emit = plan.emit;
  p.image_channels = static_cast<int32_t>(plan.image_channels());
  p.params = static_cast<int32_t>(plan.params());
  p.noises = static_cast<int32_t>(plan.noises());
  p.cond_columns = static_cast<int32_t>(packing.context_columns);
  for (size_t m = 0; m < plan.channels.size(); ++m)
    if (plan.is_own(m)) p.rings[m].groups = static_cast<int32_t>(round_up(plan.channels[m], group) / group);
  for (const PlanDraw& draw : plan.draws) p.draws[p.n_draws++] = draw_of(draw, plan.channels[usize(draw.buffer)]);
  add_stages(plan, packing, p);
  link_stages(p);
  return p;
}

Program bind(const char* op, const Plan& plan, const Packing& packing, int64_t height, int64_t width, ContextKind context) {
  const int64_t steps = width + plan.slope * (height - 1);
  Program p = program_of(op, plan, packing);
  check_image(op, plan, height, width, steps);
  p.height = static_cast<int32_t>(height);
  p.width = static_cast<int32_t>(width);
  p.steps = static_cast<int32_t>(steps);
  p.rows = divisor_of(most_rows(height, width, plan.slope));
  p.cond_pixels = static_cast<int32_t>(context == ContextKind::none ? 0 : context == ContextKind::map ? height * width : 1);
  for (const PlanStage& stage : plan.stages) p.first_step = std::min(p.first_step, static_cast<int32_t>(-stage.lead));
  place_rings(op, plan, p);
  return p;
}

}  // namespace vlae::cuda::pixelcnn_sample
