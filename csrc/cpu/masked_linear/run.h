// The products of a masked linear layer, dealt out to threads.
#pragma once

#include "layer.h"
#include "structure.h"

namespace vlae::masked_linear {

struct LinearForward {
  const float *x, *bias;  // units by their numbers, see LinearLayer; bias: nullptr if none
  int64_t batch;
  Activation activation;
  float* y;
};

// Units by their numbers. nullptr: a gradient that is not wanted.
struct LinearBackward {
  const float *x, *g;
  int64_t batch, g_stride;
  float *grad_x, *grad_weight;
};

// A panel as `pack_outputs` or `pack_inputs` has packed it.
inline void set_panel(PanelProduct& product, const Panel& panel, const float* packed, int lanes) {
  product.panel = panel;
  product.of_both = packed;
  product.of_more = packed + panel.both.length * kPanelVecs * lanes;
  product.more_step = lanes;
}

// The structures are those of the layer, for outputs in the forward and for inputs in the backward.
void run_forward(const char* op, const Kernels& kernels, const LinearLayer& layer, const Structure& structure,
                 const LinearForward& forward);
void run_slopes(const Kernels& kernels, const Slopes& slopes);
void run_backward(const char* op, const Kernels& kernels, const LinearLayer& layer, const Structure& structure,
                  const LinearBackward& backward);

}  // namespace vlae::masked_linear
