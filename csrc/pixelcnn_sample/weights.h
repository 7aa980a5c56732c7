// Checks of the weights that a caller hands over for a plan.
#pragma once

#include <vector>

#include "../tensors.h"
#include "plan.h"

namespace vlae {

// Tensors of a stage: a matrix per source, the bias, the matrix of the context; of a norm gain, bias and eps; of attention the
// scale of its scores.
inline size_t count_weights(const PlanStage& stage) {
  if (stage.kind == StageKind::attend) return 1;
  return stage.kind == StageKind::norm ? 3 : stage.sources.size() + 1 + (stage.context_dim > 0);
}

// The data of all of them; throws unless they are finite float32 tensors on the CPU, of the plan's shapes.
std::vector<const float*> check_weights(const char* op, const std::vector<Tensor>& weights, const Plan& plan);

}  // namespace vlae
