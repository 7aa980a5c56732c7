// What inverse.cu offers to the code that knows tensors.
#pragma once

#include "../../made_inverse/scale.h"
#include "../../pointwise.h"
#include "../number.h"
#include "walk.h"

namespace vlae::cuda {

constexpr int kWarps = 16;      // of a block
constexpr int kMaxSamples = 8;  // of a tile: each has a warp of its own while its units are found

// What is packed: the masked layers, of the numbers of the call.
struct Layers {
  const void *weights[kMaxLayers], *biases[kMaxLayers];
  int32_t inputs[kMaxLayers];
};

// [B, D] each, cond [B, cond_size] or nullptr, log_det [B], known [B][values].
struct Batch {
  const void *eps, *cond;
  void *x, *log_det;
  float* known;
  int64_t size;
  int32_t dim, cond_size, values;
  int32_t outputs;  // the layer of them
  bool affine;
  Pointwise activation;
  MadeScale scale;
};

// blocks: as many as the walk has quads and events.
void run_pack(const char* op, Number number, const Walk& walk, int blocks, const Layers& layers, void* packed, void* stream);

// event_fours: of the block whose events have most of them.
void run_inverse(const char* op, Number number, const Walk& walk, const void* packed, int64_t event_fours, const Batch& batch,
                 void* stream);

}  // namespace vlae::cuda
