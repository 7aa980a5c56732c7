#include "packing.h"

#include <algorithm>

#include "../../checks.h"
#include "../../narrow.h"

namespace vlae::cuda::pixelcnn_sample {

namespace {

int64_t groups_of(const Plan& plan, const PlanStage& stage, const Format& format) {
  int64_t groups = 0;
  if (stage.kind == StageKind::norm) return 0;
  for (const PlanSource& source : stage.sources)
    groups +=
        round_up(plan.channels[usize(source.buffer)], format.group) / format.group * static_cast<int64_t>(source.taps.size());
  return round_up(groups, format.batch);
}

// The packed column of a column of the weights as they are given.
int64_t packed_column(const PlanStage& stage, int64_t column) {
  if (!is_pair(stage.activation)) return column;
  return column < stage.out_channels ? 2 * column : 2 * (column - stage.out_channels) + 1;
}

int64_t bias_place(Dtype dtype, int64_t column) { return column / kTile * kTile + bias_at(dtype, column % kTile); }

void grow(const char* op, int64_t& size, int64_t rows, int64_t columns) {
  VLAE_CHECK(rows <= (kMaxWeights - size) / columns, op, "plan", text("need at most ", kMaxWeights, " weights"),
             text("a stage of ", rows, " x ", columns));
  size += rows * columns;
}

}  // namespace

Packing packing_of(const char* op, const Plan& plan, Dtype dtype) {
  const Format format = format_of(dtype);
  Packing packing = {};
  packing.dtype = dtype;
  for (const PlanStage& stage : plan.stages) {
    VLAE_CHECK(stage.kind != StageKind::attend, op, "plan", "have stages of kinds 0 and 1 alone", "one of kind 2");
    StagePacking place = {packing.size, 0, groups_of(plan, stage, format), round_up(stage.columns(), kTile)};
    grow(op, packing.size, 1, place.columns);
    place.weight = packing.size;
    grow(op, packing.size, stage.kind == StageKind::norm ? 2 : place.groups * format.group, place.columns);
    packing.stages.push_back(place);
    if (stage.context_dim > 0) packing.context_columns += place.columns;
  }
  packing.context = packing.size;
  if (plan.context_dim > 0) grow(op, packing.size, plan.context_dim, packing.context_columns);
  return packing;
}

void pack_weights(float* packed, const Plan& plan, const Packing& packing, const float* const* weights) {
  const int64_t group = format_of(packing.dtype).group;
  const auto put = [&](const StagePacking& place, int64_t k, int64_t column, float value) {
    const int64_t tile = column / kTile * (place.groups * group / kTile) + k / kTile;
    packed[place.weight + tile * kTile * kTile + weight_at(packing.dtype, k % kTile, column % kTile)] = value;
  };
  int64_t context_column = 0;
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const PlanStage& stage = plan.stages[s];
    const StagePacking& place = packing.stages[s];
    if (stage.kind == StageKind::norm) {
      float* out = packed + place.weight;
      std::copy_n(*weights++, stage.out_channels, out);
      std::copy_n(*weights++, stage.out_channels, packed + place.bias);
      out[place.columns] = **weights++;
      continue;
    }
    int64_t first = 0;  // product of a tap
    for (const PlanSource& source : stage.sources) {
      const int64_t channels = plan.channels[usize(source.buffer)], taps = static_cast<int64_t>(source.taps.size());
      for (int64_t tap = 0; tap < taps; ++tap, first += round_up(channels, group))
        for (int64_t column = 0; column < stage.columns(); ++column)
          for (int64_t c = 0; c < channels; ++c)
            put(place, first + c, packed_column(stage, column), (*weights)[(column * channels + c) * taps + tap]);
      ++weights;
    }
    for (int64_t column = 0; column < stage.columns(); ++column)
      packed[place.bias + bias_place(packing.dtype, packed_column(stage, column))] = (*weights)[column];
    ++weights;
    if (stage.context_dim == 0) continue;
    for (int64_t column = 0; column < stage.columns(); ++column)
      for (int64_t d = 0; d < plan.context_dim; ++d)
        packed[packing.context + d * packing.context_columns + context_column + packed_column(stage, column)] =
            (*weights)[column * plan.context_dim + d];
    ++weights;
    context_column += place.columns;
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
