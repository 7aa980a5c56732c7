// Makes the tables of a Walk from the degrees of a MADE.
#pragma once

#include <cstdint>
#include <vector>

#include "walk.h"

namespace vlae::cuda::made_inverse {

struct MadePlan {
  std::vector<Quad> quads;
  std::vector<Event> events;
  std::vector<Block> blocks;
  std::vector<int32_t> order;
  int64_t fours;        // in all packed weights
  int64_t event_fours;  // in the events of the block that has most of them
};

// degrees: of the inputs, each hidden layer and the outputs, as in the op's contract. Throws where the MADE is beyond a
// limit.
MadePlan plan_made(const char* op, const std::vector<std::vector<int64_t>>& degrees);

}  // namespace vlae::cuda::made_inverse
