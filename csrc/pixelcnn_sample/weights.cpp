#include "weights.h"

#include <cmath>

#include "../narrow.h"

namespace vlae {

namespace {

const float* check_weight(const char* op, size_t index, const Tensor& weight, const std::vector<int64_t>& sizes) {
  const std::string name = text("weights[", index, "]");
  check_float(op, name, weight);
  check_shape(op, name, weight, sizes);
  const float* data = floats(weight);
  const int64_t n = weight.numel();
  for (int64_t i = 0; i < n; ++i)
    VLAE_CHECK(std::isfinite(data[i]), op, name, "be finite", number_text(data[i]) + text(" at index ", i));
  return data;
}

}  // namespace

std::vector<const float*> check_weights(const char* op, const std::vector<Tensor>& weights, const Plan& plan) {
  size_t wanted = 0;
  for (const PlanStage& stage : plan.stages) wanted += count_weights(stage);
  VLAE_CHECK(weights.size() == wanted, op, "weights", text("have ", wanted, " tensors for this plan"), weights.size());
  std::vector<const float*> data;
  for (const PlanStage& stage : plan.stages) {
    if (stage.kind == StageKind::norm) {
      for (const int64_t size : {stage.out_channels, stage.out_channels, int64_t{1}})
        data.push_back(check_weight(op, data.size(), weights[data.size()], {size}));
      VLAE_CHECK(data.back()[0] > 0, op, text("weights[", data.size() - 1, "]"), "be above 0, the eps of a norm",
                 number_text(data.back()[0]));
      continue;
    }
    if (stage.kind == StageKind::attend) {
      data.push_back(check_weight(op, data.size(), weights[data.size()], {1}));
      continue;
    }
    for (const PlanSource& source : stage.sources) {
      const int64_t taps = static_cast<int64_t>(source.taps.size());
      data.push_back(
          check_weight(op, data.size(), weights[data.size()], {stage.columns(), plan.channels[usize(source.buffer)], taps}));
    }
    data.push_back(check_weight(op, data.size(), weights[data.size()], {stage.columns()}));
    if (stage.context_dim > 0)
      data.push_back(check_weight(op, data.size(), weights[data.size()], {stage.columns(), stage.context_dim}));
  }
  return data;
}

}  // namespace vlae
