// A MADE forward and back: tiles of samples, dealt out to threads, go through all layers while their activations are in the
// cache of a core.
#pragma once

#include <vector>

#include "kernels.h"
#include "network.h"
#include "panels.h"

namespace vlae::made {

struct Both {
  LinearKernels linear;
  Kernels own;
};

// Units by their numbers, see network.h.
struct Forward {
  const float* x;
  std::vector<const float*> biases;
  const float* cond;  // [batch, outputs of the first layer] or nullptr
  int64_t batch;
  Activation activation;
  std::vector<float*> outs;  // of every layer; nullptr: a hidden one that nobody asked for
};

// The same. nullptr: not wanted.
struct Backward {
  const float *grad, *x;
  std::vector<const float*> hidden;
  int64_t batch;
  Activation activation;
  float *grad_x, *grad_cond;
  std::vector<float*> grad_weights, grad_biases;

  // The first layer of which something is wanted.
  int64_t first_layer() const;
};

void run_forward(const char* op, const Both& kernels, const Network& network, const Forward& forward);
void run_backward(const char* op, const Both& kernels, const Network& network, const Backward& backward);

}  // namespace vlae::made
