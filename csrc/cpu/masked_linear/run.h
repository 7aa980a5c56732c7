// The products of a masked linear layer, dealt out to threads.
#pragma once

#include "layer.h"

namespace vlae::masked_linear {

struct LinearForward {
  const float *x, *bias;  // units by their numbers, see LinearLayer; bias: nullptr if none
  int64_t batch;
  Activation activation;
  float* y;
};

// g and its transpose, units by their numbers, belong to the gradient that needs them; nullptr: not wanted.
struct LinearBackward {
  const float *x, *g, *g_transposed;
  int64_t batch, transposed_stride;
  float *grad_x, *grad_weight;
};

void run_forward(const char* op, const Kernels& kernels, const LinearLayer& layer, const LinearForward& forward);
void run_slopes(const Kernels& kernels, const Slopes& slopes);
void run_backward(const char* op, const Kernels& kernels, const LinearLayer& layer, const LinearBackward& backward);

}  // namespace vlae::masked_linear
