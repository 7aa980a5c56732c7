// The packed weights: per stage its bias and [groups][4 products][columns], then of all contexts together [D][columns].
//
// A product is a tap of a channel; the channels of a source are rounded up to groups of 4, so that a lane reads 4 of its
// activations at once. A gated stage has the two halves of a channel in neighbouring columns: one lane holds both.
#pragma once

#include <cstdint>
#include <vector>

#include "../../pixelcnn_sample/plan.h"

namespace vlae::cuda {

constexpr int64_t kGroup = 4;
constexpr int64_t kMaxFloats = int64_t{1} << 31;

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

struct StageLayout {
  int64_t bias, weight;  // floats from the start
  int64_t groups, columns;
};

struct PackedLayout {
  std::vector<StageLayout> stages;
  int64_t context, context_columns;  // of the matrices that turn the context into conditions
  int64_t size;                      // floats
};

PackedLayout packed_layout(const char* op, const Plan& plan);

// weights: per stage of each source [columns, channels, taps], then bias, then [columns, D] where it sees the context.
// packed: zeroed.
void pack(float* packed, const Plan& plan, const PackedLayout& layout, const float* const* weights);

}  // namespace vlae::cuda
