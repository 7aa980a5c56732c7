// A layer, to the kernels of every family: packed weights, and what is done to the sums. Plain data, shared by the files of
// every instruction set.
#pragma once

#include <cstdint>

#include "../activation.h"
#include "runs.h"

namespace vlae {

// Packed weights are panels of [depth][up to 2 vectors of columns], columns padded to whole vectors. A layer of pairs (gate,
// glu) has a vector of its first half beside the same channels of its second: the two meet while a block is in the nearest
// cache.
struct Layer {
  Activation activation;
  int64_t out_channels;  // C, after the activation; of pairs there are P = 2 C columns
  int64_t depth, vecs;   // products per output, vectors of columns
  const float *bias, *weight;
};

}  // namespace vlae
