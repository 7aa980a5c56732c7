#include "bind.h"

#include <algorithm>

#include "../checks.h"

namespace vlae {

namespace {

constexpr int64_t kMaxFloats = int64_t{1} << 40;

// How far beyond the image its readers reach.
struct Border {
  int64_t top = 0, bottom = 0, side = 0;
};

std::vector<Border> find_borders(const Plan& plan, int64_t height, int64_t width) {
  std::vector<Border> borders(plan.channels.size());
  for (const PlanStage& stage : plan.stages)
    for (const PlanSource& source : stage.sources)
      for (const Tap& tap : source.taps) {
        if (!lands(tap, height, width)) continue;
        Border& border = borders[source.buffer];
        border.top = std::max(border.top, -tap.dy);
        border.bottom = std::max(border.bottom, tap.dy);
        border.side = std::max(border.side, std::abs(tap.dx));
      }
  return borders;
}

}  // namespace

// The border right of a row is the border left of the next.
void BoundProgram::place_buffers(const char* op, const Plan& plan) {
  const std::vector<Border> borders = find_borders(plan, program_.height, program_.width);
  int64_t at = 0;
  for (size_t m = 0; m < borders.size(); ++m) {
    const Border& border = borders[m];
    const int64_t row = program_.width + border.side, channels = plan.channels[m];
    buffers_.push_back({at + (border.top * row + border.side) * channels, row, channels});
    const int64_t pixels = (border.top + program_.height + border.bottom) * row + border.side;
    at += (pixels * channels + 15) / 16 * 16;
    VLAE_CHECK(at <= kMaxFloats, op, "plan", text("need at most ", kMaxFloats, " cached floats for a sample"),
               text("at least ", at));
  }
  program_.sample_floats = at;
}

void BoundProgram::add_runs(const PlanStage& stage) {
  std::vector<Source>& sources = sources_.emplace_back();
  int64_t weight = 0;
  for (const PlanSource& source : stage.sources) {
    const Buffer& buffer = buffers_[source.buffer];
    std::vector<Run>& runs = runs_.emplace_back();
    for (const Tap& tap : source.taps) {
      const Run next = {(tap.dy * buffer.row + tap.dx) * buffer.channels, weight, buffer.channels};
      weight += buffer.channels;
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

Cond BoundProgram::bind_cond(const CondTensor& cond, int64_t columns) const {
  if (!cond.per_pixel) return {cond.data, columns, 0, 0};
  return {cond.data, program_.height * program_.width * columns, program_.width * columns, columns};
}

BoundProgram::BoundProgram(const char* op, const Plan& plan, const PackedLayout& layout, const float* packed, int64_t height,
                           int64_t width, const std::vector<CondTensor>& conds, const Draw& draw) {
  program_ = {};
  program_.height = height;
  program_.width = width;
  program_.slope = plan.slope;
  program_.steps = width + plan.slope * (height - 1);
  place_buffers(op, plan);
  auto cond = conds.begin();
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const PlanStage& stage = plan.stages[s];
    const StageLayout& place = layout.stages[s];
    add_runs(stage);
    const std::vector<Source>& sources = sources_.back();
    stages_.push_back({stage.activation, static_cast<int>(sources.size()), sources.data(), static_cast<int64_t>(s + 1),
                       stage.residual, stage.columns(), stage.out_channels, stage.lead, place.depth, place.vecs,
                       packed + place.bias, packed + place.weight,
                       stage.cond ? bind_cond(*cond++, stage.columns()) : Cond{}});
  }
  program_.n_stages = static_cast<int64_t>(stages_.size());
  program_.stages = stages_.data();
  program_.buffers = buffers_.data();
  program_.draw = draw;
}

}  // namespace vlae
