// The packed weights: a header that names plan and instruction set, then per stage bias and panels, then
// the same of the matrices that turn the context into conditions.
//
// A panel is [products][2 vectors of columns], so the inner loop of the matrix product reads it front to back. Columns are
// padded to whole vectors. A gated stage pairs a vector of its first half with the same channels of its second half: the
// gate is then applied to a block while it is in the nearest cache. A norm has its gain in place of a panel, and its eps
// behind; attention its scale. Of bfloat16 a product is a pair of them, those of two channels that follow each other, in the
// place of a float; biases and gains stay float32.
#pragma once

#include <cstdint>
#include <vector>

#include "../../pixelcnn_sample/plan.h"
#include "../storage.h"

namespace vlae::pixelcnn_sample {

constexpr int64_t kHeaderFloats = 16;
constexpr int64_t kMaxFloats = int64_t{1} << 40;  // of packed weights, and of the caches of a sample

struct StagePacking {
  int64_t bias, weight;  // floats from the start
  int64_t depth, vecs;
};

struct Packing {
  std::vector<StagePacking> stages;
  std::vector<StagePacking> contexts;  // of the stages that see the context
  int64_t size;                        // floats
  Storage storage;                     // of the matrices, whose products may be pairs
};

// The condition of a stage as a stage of its own: reads the context (buffer 0), no activation.
PlanStage context_stage(const PlanStage& stage);

Packing packing_of(const char* op, const Plan& plan, int lanes, Storage storage);

struct Header {
  int isa;  // its number
  Storage storage;
};

// Throws if this is no packed tensor of this plan.
Header read_header(const char* op, const float* packed, int64_t size, const Plan& plan);

// Where a tensor of weights lies. Of a source, that of (column, channel, tap) is
// data[(column * channels + channel) * cell + places[tap]]: whole kernels are read in place.
struct WeightTensor {
  const float* data;
  int64_t cell;
  const int64_t* places;
};

// Header, stages and contexts. weights: of each stage in turn, those that `count_weights` counts.
void pack_program(float* packed, const Plan& plan, const Packing& packing, int isa, int lanes, const WeightTensor* weights);

// True where every number is finite as it is packed: the largest float32 are not in bfloat16.
bool all_finite(const float* packed, const Plan& plan, const Packing& packing, int lanes);

}  // namespace vlae::pixelcnn_sample
