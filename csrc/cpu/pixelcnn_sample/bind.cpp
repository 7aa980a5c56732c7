#include "bind.h"

#include <algorithm>

#include "../../checks.h"
#include "../../narrow.h"
#include "../../pixelcnn_sample/reads.h"
#include "../halves.h"

namespace vlae::pixelcnn_sample {

namespace {

// Floats of the caches so far, once more were put behind them.
int64_t grown(const char* op, int64_t floats, int64_t more) {
  const int64_t size = floats + (more + 15) / 16 * 16;
  VLAE_CHECK(size <= kMaxFloats, op, "plan", text("need at most ", kMaxFloats, " cached floats for a sample"),
             text("at least ", size));
  return size;
}

// Rows and columns beyond the image that its readers reach.
struct Border {
  int64_t top = 0, bottom = 0, side = 0;
};

std::vector<Border> find_borders(const Plan& plan, int64_t height, int64_t width) {
  std::vector<Border> borders(plan.channels.size());
  for (const PlanStage& stage : plan.stages)
    for (const PlanSource& source : stage.sources)
      for (const Tap& tap : source.taps) {
        if (stage.kind == StageKind::attend) continue;  // it reads no pixel outside of the image
        if (!lands(tap, height, width)) continue;
        Border& border = borders[usize(source.buffer)];
        border.top = std::max(border.top, -tap.dy);
        border.bottom = std::max(border.bottom, tap.dy);
        border.side = std::max(border.side, std::abs(tap.dx));
      }
  return borders;
}

// The buffers that stages read: those that draws alone read are float32 whatever the storage.
std::vector<bool> find_read(const Plan& plan) {
  std::vector<bool> read(plan.channels.size());
  read[0] = true;
  for (const PlanStage& stage : plan.stages) {
    for (const PlanSource& source : stage.sources) read[usize(source.buffer)] = true;
    for (const int64_t buffer : {stage.residual, stage.factor})
      if (buffer >= 0) read[usize(buffer)] = true;
  }
  return read;
}

}  // namespace

// The border right of a row is the border left of the next.
void BoundProgram::place_buffers(const char* op, const Plan& plan, Storage storage) {
  const std::vector<Border> borders = find_borders(plan, program_.height, program_.width);
  const std::vector<bool> read = find_read(plan);
  int64_t at = 0;
  for (size_t m = 0; m < borders.size(); ++m) {
    const Border& border = borders[m];
    if (!plan.is_own(m)) {  // the stage of that number writes another one
      buffers_.push_back({});
      continue;
    }
    const Storage own = read[m] ? storage : Storage::float32;
    const int64_t row = program_.width + border.side, pixel = floats_of(own, plan.channels[m]);
    buffers_.push_back({at + (border.top * row + border.side) * pixel, row, pixel, plan.channels[m], own});
    const int64_t pixels = (border.top + program_.height + border.bottom) * row + border.side;
    at = grown(op, at, pixels * pixel);
  }
  program_.sample_floats = at;
}

void BoundProgram::add_runs(const PlanStage& stage) {
  std::vector<Source>& sources = sources_.emplace_back();
  if (stage.kind == StageKind::attend) {
    for (const PlanSource& source : stage.sources) sources.push_back({source.buffer, nullptr, 0});
    return;
  }
  int64_t weight = 0;
  for (const PlanSource& source : stage.sources) {
    const Buffer& buffer = buffers_[usize(source.buffer)];
    std::vector<Run>& runs = runs_.emplace_back();
    for (const Tap& tap : source.taps) {
      const Run next = {(tap.dy * buffer.row + tap.dx) * buffer.pixel, weight, buffer.pixel};
      weight += buffer.pixel;
      if (!lands(tap, program_.height, program_.width)) continue;
      Run* last = runs.empty() ? nullptr : &runs.back();
      const bool adjacent = last && last->offset + last->length == next.offset && last->weight + last->length == next.weight;
      if (adjacent)
        last->length += next.length;
      else
        runs.push_back(next);
    }
    if (!runs.empty()) sources.push_back({source.buffer, runs.data(), static_cast<int>(runs.size())});
  }
}

int64_t BoundProgram::place_context(const char* op, int64_t channels, bool per_pixel, Storage storage) {
  const int64_t pixels = per_pixel ? program_.height * program_.width : 1, pixel = floats_of(storage, channels);
  buffers_.push_back({program_.sample_floats, per_pixel ? program_.width : 0, per_pixel ? pixel : 0, channels, storage});
  program_.sample_floats = grown(op, program_.sample_floats, pixels * pixel);
  return static_cast<int64_t>(buffers_.size()) - 1;
}

// A map is one more source of the stages that see it. What every pixel sees alike becomes conditions first.
void BoundProgram::add_context(const char* op, const Plan& plan, const Packing& packing, const float* packed,
                               const ContextTensor& context) {
  const Storage storage = packing.storage;
  const int64_t depth = floats_of(storage, plan.context_dim);
  const int64_t buffer = place_context(op, plan.context_dim, context.per_pixel, storage);
  program_.context = {context.data, buffer, 1, plan.context_dim, 0, nullptr};
  if (context.per_pixel) {
    program_.context.pixels = program_.height * program_.width;
    for (size_t s = 0; s < plan.stages.size(); ++s)
      if (plan.stages[s].context_dim > 0) add_source(s, buffer, {0, stages_[s].depth - depth, depth});
    return;
  }
  const std::vector<Run>& runs = runs_.emplace_back(std::vector<Run>{{0, 0, depth}});
  const std::vector<Source>& sources = sources_.emplace_back(std::vector<Source>{{buffer, runs.data(), 1}});
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    if (plan.stages[s].context_dim == 0) continue;
    const StagePacking& place = packing.contexts[context_stages_.size()];
    const int64_t columns = plan.stages[s].columns();
    stages_[s].cond = place_context(op, columns, false, Storage::float32);
    context_stages_.push_back({Activation::none,
                               1,
                               sources.data(),
                               stages_[s].cond,
                               -1,
                               columns,
                               columns,
                               0,
                               depth,
                               place.vecs,
                               packed + place.bias,
                               packed + place.weight,
                               -1,
                               -1,
                               false,
                               kEverywhere,
                               0,
                               false,
                               storage,
                               Storage::float32});
  }
  program_.context.n_stages = static_cast<int64_t>(context_stages_.size());
  program_.context.stages = context_stages_.data();
}

void BoundProgram::add_source(size_t stage, int64_t buffer, const Run& run) {
  const std::vector<Run>& runs = runs_.emplace_back(std::vector<Run>{run});
  std::vector<Source>& sources = sources_[stage];  // those of the stages come first
  sources.push_back({buffer, runs.data(), 1});
  stages_[stage].sources = sources.data();
  ++stages_[stage].n_sources;
}

BoundProgram::BoundProgram(const char* op, const Plan& plan, const Packing& packing, const float* packed, int64_t height,
                           int64_t width, const ContextTensor& context, const Draw& draw) {
  program_ = {};
  program_.height = height;
  program_.width = width;
  program_.slope = plan.slope;
  program_.steps = width + plan.slope * (height - 1);
  place_buffers(op, plan, packing.storage);
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const PlanStage& stage = plan.stages[s];
    const StagePacking& place = packing.stages[s];
    add_runs(stage);
    const std::vector<Source>& sources = sources_.back();
    const bool attends = stage.kind == StageKind::attend;
    const int64_t depth = attends ? height * width : place.depth;  // the most pixels that it sees
    stages_.push_back({stage.activation,
                       static_cast<int>(sources.size()),
                       sources.data(),
                       plan.written_by(s),
                       stage.residual,
                       stage.columns(),
                       stage.out_channels,
                       stage.lead,
                       depth,
                       place.vecs,
                       packed + place.bias,
                       packed + place.weight,
                       -1,
                       stage.factor,
                       stage.kind == StageKind::norm,
                       stage.sites,
                       stage.heads,
                       attends && stage.sources[1].taps[0].dx == 0,
                       packing.storage,
                       buffers_[usize(plan.written_by(s))].storage});
  }
  for (const PlanDraw& draw_of : plan.draws) draws_.push_back({draw_of.after, draw_of.buffer, draw_of.first, draw_of.count});
  if (plan.context_dim > 0) add_context(op, plan, packing, packed, context);
  program_.n_stages = static_cast<int64_t>(stages_.size());
  program_.stages = stages_.data();
  program_.n_draws = static_cast<int64_t>(draws_.size());
  program_.draws = draws_.data();
  program_.buffers = buffers_.data();
  program_.draw = draw;
}

}  // namespace vlae::pixelcnn_sample
