// Which stages of a step share a barrier.
#pragma once

#include <cstddef>
#include <vector>

#include "../../pixelcnn_sample/plan.h"

namespace vlae::cuda::pixelcnn_sample {

// The stages of a section read nothing that another one of it writes in the same step.
using Section = std::vector<std::size_t>;

// Cuts the stages of a plan into sections, to be run in this order; a draw comes behind the same stages as in the plan. A norm,
// whose rows are shared among warps in another way, is a section of its own.
// places: of each stage, how many a row of it reads and writes. most: places of a section of several stages.
std::vector<Section> sections_of(const Plan& plan, const std::vector<int64_t>& places, int64_t most);

}  // namespace vlae::cuda::pixelcnn_sample
