// The panels of a masked linear layer, and what of the inner dimension each of them needs.
#pragma once

#include <vector>

#include "layer.h"

namespace vlae::masked_linear {

struct LivePanel {
  Columns columns[kPanelVecs];
  std::vector<Run> both, more;

  // Points at the runs.
  Panel view() const;
};

// Columns are the outputs (and the inner dimension the inputs), or the other way round.
std::vector<LivePanel> panels_of_outputs(const LinearLayer& layer, int64_t lanes);
std::vector<LivePanel> panels_of_inputs(const LinearLayer& layer, int64_t lanes);

// Columns first .. first + count - 1 of a row of W that no panel of inputs covers.
struct DeadRun {
  int64_t row, first, count;
};

// Row by row.
std::vector<DeadRun> dead_runs(const std::vector<LivePanel>& panels_of_inputs, const LinearLayer& layer, int64_t lanes);

}  // namespace vlae::masked_linear
