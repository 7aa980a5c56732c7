// What inverse.cu offers to the code that knows tensors.
#pragma once

#include "../../made_inverse/scale.h"
#include "../../activation.h"
#include "../number.h"
#include "walk.h"

namespace vlae::cuda {

constexpr int kWarps = 16;      // of a block
constexpr int kMaxSamples = 8;  // of a tile: each has a warp of its own while its units are found

// What is packed: the masked layers of every step, of the numbers of the call. The steps have the sizes of the first.
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
  int32_t outputs;  // the layer of them
  bool affine;
  Activation activation;
  MadeScale scale;
};

// The walk's tables are counted on the host too, where nobody can look into them.
struct Counts {
  int64_t quads, events;
  int64_t fours;        // of a step's packed weights
  int64_t event_fours;  // of the block whose events have most of them
};

void run_pack(const char* op, Number number, const Walk& walk, const Counts& counts, const Layers& layers, void* packed,
              void* stream);

void run_inverse(const char* op, Number number, const Walk& walk, const Counts& counts, const void* packed, const Batch& batch,
                 void* stream);

}  // namespace vlae::cuda
