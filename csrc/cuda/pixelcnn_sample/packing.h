// Order of the packed weights: per stage its bias and [tile of columns][tile of products], cf. format.h, then [D][columns] for
// the context, with the columns of all stages that see it. Of a norm bias, gain and eps, each [columns]. What a warp reads in
// its turn, all products of 16 columns, lies in one piece: its loads differ by constants.
//
// A product is a tap of a channel; the channels of a source are rounded up to whole groups, cf. format.h. A gated stage has the
// two halves of a channel in neighbouring columns: one lane holds both.
#pragma once

#include <cstdint>
#include <vector>

#include "../../pixelcnn_sample/plan.h"
#include "format.h"

namespace vlae::cuda::pixelcnn_sample {

constexpr int64_t kMaxWeights = int64_t{1} << 31;

struct StagePacking {
  int64_t bias, weight;  // places, in values from the start
  int64_t groups;
  int64_t columns;  // P, rounded up
};

struct Packing {
  Dtype dtype;
  std::vector<StagePacking> stages;
  int64_t context, context_columns;  // the matrix that turns the context into conditions: its place, its columns
  int64_t size;                      // in values
};

Packing packing_of(const char* op, const Plan& plan, Dtype dtype);

// weights: per stage, for each source [P, channels, taps], then the bias [P], then [P, D] where the stage sees the context.
// packed: must be zeros.
void pack_weights(float* packed, const Plan& plan, const Packing& packing, const float* const* weights);

}  // namespace vlae::cuda::pixelcnn_sample
