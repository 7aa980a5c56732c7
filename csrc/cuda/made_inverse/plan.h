// The degrees of a MADE become the tables of a Walk.
#pragma once

#include <cstdint>
#include <vector>

#include "walk.h"

namespace vlae::cuda {

struct MadePlan {
  std::vector<Quad> quads;
  std::vector<Event> events;
  std::vector<Block> blocks;
  std::vector<int32_t> order;
  int64_t fours;        // of all packed weights
  int64_t event_fours;  // of the block whose events have most of them
};

// degrees: of the inputs, the hidden layers, the outputs, as the op's contract has them. Throws where a limit is in the way.
MadePlan plan_made(const char* op, const std::vector<std::vector<int64_t>>& degrees);

}  // namespace vlae::cuda
