// The live stretches of a masked linear layer.
#pragma once

#include <vector>

#include "layer.h"

namespace vlae::masked_linear {

class LiveRuns {
 public:
  explicit LiveRuns(const LinearLayer& layer);

  // The inputs that any of these outputs reads, and the outputs that read any of these inputs.
  std::vector<Run> of_outputs(const Columns& outputs) const;
  std::vector<Run> of_inputs(const Columns& inputs) const;

 private:
  const LinearLayer& layer_;
  bool sorted_inputs_, sorted_outputs_;
};

int64_t total_length(const std::vector<Run>& runs);

}  // namespace vlae::masked_linear
