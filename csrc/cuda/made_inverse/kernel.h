// The two launches of inverse.cu, for the code that knows tensors.
#pragma once

#include "../../activation.h"
#include "../../made_inverse/scale.h"
#include "../dtype.h"
#include "walk.h"

namespace vlae::cuda::made_inverse {

constexpr int kWarps = 16;      // in a thread block
constexpr int kMaxSamples = 8;  // in a tile: each has a warp of its own while its units are found

// The masked layers of every step, in the dtype of the call. All steps have the sizes of the first.
struct Layers {
  const void *weights[kMaxLayers], *biases[kMaxLayers];
  int32_t inputs[kMaxLayers];
  int32_t steps, per_step;
};

// eps [B, D], x [steps, B, D], cond [B, steps * cond_size] or nullptr, log_det [B], known [B][values]. The x of a step, its
// dimensions reversed, is the eps of the next.
struct Batch {
  const void *eps, *cond;
  void *x, *log_det;
  float* known;
  int64_t size;
  int32_t steps, dim, cond_size, values;
  int32_t outputs;  // index of the layer of outputs
  bool affine;
  Activation activation;
  MadeScale scale;
};

// Sizes of the walk's tables for the host, which cannot look into them.
struct Counts {
  int64_t quads, events;
  int64_t fours;        // in the packed weights of a step
  int64_t event_fours;  // in the events of the block that has most of them
};

void run_pack(const char* op, Dtype dtype, const Walk& walk, const Counts& counts, const Layers& layers, void* packed,
              void* stream);

void run_inverse(const char* op, Dtype dtype, const Walk& walk, const Counts& counts, const void* packed, const Batch& batch,
                 void* stream);

}  // namespace vlae::cuda::made_inverse
