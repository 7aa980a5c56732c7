#include "packing.h"

#include "../../checks.h"

namespace vlae::cuda {

namespace {

int64_t groups_of(const Plan& plan, const PlanStage& stage, int64_t group) {
  int64_t groups = 0;
  for (const PlanSource& source : stage.sources)
    groups += round_up(plan.channels[source.buffer], group) / group * static_cast<int64_t>(source.taps.size());
  return groups;
}

// Where a column of the unpacked weights goes.
int64_t packed_column(const PlanStage& stage, int64_t column) {
  if (stage.activation != Activation::gate) return column;
  return column < stage.out_channels ? 2 * column : 2 * (column - stage.out_channels) + 1;
}

void grow(const char* op, int64_t& size, int64_t rows, int64_t columns) {
  VLAE_CHECK(rows <= (kMaxWeights - size) / columns, op, "plan", text("need at most ", kMaxWeights, " weights"),
             text("a stage of ", rows, " x ", columns));
  size += rows * columns;
}

}  // namespace

PackedLayout packed_layout(const char* op, const Plan& plan, Number number) {
  const Format format = format_of(number);
  PackedLayout layout = {};
  layout.number = number;
  for (const PlanStage& stage : plan.stages) {
    StageLayout place = {layout.size, 0, groups_of(plan, stage, format.group), round_up(stage.columns(), format.columns)};
    grow(op, layout.size, 1, place.columns);
    place.weight = layout.size;
    grow(op, layout.size, place.groups * format.group, place.columns);
    layout.stages.push_back(place);
    if (stage.context_dim > 0) layout.context_columns += place.columns;
  }
  layout.context = layout.size;
  if (plan.context_dim > 0) grow(op, layout.size, plan.context_dim, layout.context_columns);
  return layout;
}

void pack(float* packed, const Plan& plan, const PackedLayout& layout, const float* const* weights) {
  const int64_t group = format_of(layout.number).group;
  int64_t context_column = 0;
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const PlanStage& stage = plan.stages[s];
    const StageLayout& place = layout.stages[s];
    float* out = packed + place.weight;
    for (const PlanSource& source : stage.sources) {
      const int64_t channels = plan.channels[source.buffer], taps = static_cast<int64_t>(source.taps.size());
      for (int64_t tap = 0; tap < taps; ++tap, out += round_up(channels, group) * place.columns)
        for (int64_t column = 0; column < stage.columns(); ++column)
          for (int64_t c = 0; c < channels; ++c)
            out[c / group * group * place.columns +
                weight_at(layout.number, c % group, packed_column(stage, column), place.columns)] =
                (*weights)[(column * channels + c) * taps + tap];
      ++weights;
    }
    for (int64_t column = 0; column < stage.columns(); ++column)
      packed[place.bias + packed_column(stage, column)] = (*weights)[column];
    ++weights;
    if (stage.context_dim == 0) continue;
    for (int64_t column = 0; column < stage.columns(); ++column)
      for (int64_t d = 0; d < plan.context_dim; ++d)
        packed[layout.context + d * layout.context_columns + context_column + packed_column(stage, column)] =
            (*weights)[column * plan.context_dim + d];
    ++weights;
    context_column += place.columns;
  }
}

}  // namespace vlae::cuda
