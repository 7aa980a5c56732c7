// The packed weights: per stage its bias and [groups][products x columns], then of all contexts together [D][columns].
//
// A product is a tap of a channel; the channels of a source are rounded up to whole groups, cf. format.h. A gated stage has the
// two halves of a channel in neighbouring columns: one lane holds both.
#pragma once

#include <cstdint>
#include <vector>

#include "../../pixelcnn_sample/plan.h"
#include "format.h"

namespace vlae::cuda {

constexpr int64_t kMaxWeights = int64_t{1} << 31;

struct StageLayout {
  int64_t bias, weight;  // numbers from the start
  int64_t groups, columns;
};

struct PackedLayout {
  Number number;
  std::vector<StageLayout> stages;
  int64_t context, context_columns;  // of the matrices that turn the context into conditions
  int64_t size;                      // numbers
};

PackedLayout packed_layout(const char* op, const Plan& plan, Number number);

// weights: per stage of each source [columns, channels, taps], then bias, then [columns, D] where it sees the context.
// packed: zeroed.
void pack(float* packed, const Plan& plan, const PackedLayout& layout, const float* const* weights);

}  // namespace vlae::cuda
