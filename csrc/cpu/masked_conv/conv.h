// A masked convolution, as its kernels see it. Plain data, shared by the files of every instruction set.
//
// Work is cut into bands: some rows of one image. A band's rows are copied with a border of zeros into memory that stays in
// the nearest caches, so no pixel of the image is a special case. Images are channels_last.
#pragma once

#include <cstdint>

#include "../layer.h"

namespace vlae::masked_conv {

struct Image {
  int64_t height, width;
};

// Rows and columns that taps reach beyond a pixel.
struct Reach {
  int64_t above, below, left, right;
};

struct Band {
  int64_t first, rows;
};

// out[p] = act( bias + cond + sum over runs of source[p + run] * weights ): the forward, and the gradient of x with the taps
// mirrored.
struct Gather {
  Layer layer;
  Image image;
  int64_t pixel, row;  // floats of the source from a pixel to its right neighbour, to the one below
  const Run* runs;     // in the order of dy, relative to the output pixel
  const int64_t* dy;   // of each run
  const int* ends;     // of each part of the runs: a part is summed by itself
  int n_parts;
  const Run* context_parts;  // products with the context of the pixel itself, a run a part
  int n_context_parts;
};

constexpr int kMaxParts = 32;

// Where a band reads and writes: all at pixel (band.first, 0).
struct GatherData {
  const float* source;
  const float* cond;   // nullptr: none
  int64_t cond_pixel;  // floats from a pixel to the next; 0: one for the image
  float* out;
  float* sigmoid;                   // nullptr: not kept
  const float* context = nullptr;   // nullptr: none
  int64_t context_pixel = 0;        // floats from a pixel to the next
  const float* residual = nullptr;  // [pixel][C], added after the activation; nullptr: none
  float* activated = nullptr;       // the output without the residual; nullptr: not kept
};

// The gradient of the pre-activation, in planes of `vecs` vectors of columns (1 or 2, in the order of packed weights):
// [plane][padded row][padded pixel][columns]. Where one plane holds all columns they are not padded to whole vectors: the
// gradient of x has no product with padding, and the last vector of a pixel ends in the next one.
struct Slope {
  Activation activation;
  int64_t channels;  // C, after the gate
  int64_t planes, vecs;
  int64_t pixel;  // floats from a pixel to the next
  Image image;
  Reach reach;           // borders of zeros
  int64_t plane_floats;  // from a plane to the next
};

struct SlopeData {
  const float *grad, *out, *sigmoid;  // of the image; what the activation has no use for may be any of them
  float* planes;                      // of the band with its borders
  float* sums;  // [2][planes * vecs * lanes]: over the band's own rows, and what their rounding lost; nullptr: not wanted
  float* map;   // [pixel][columns] of the image: grad of a cond map; nullptr: not wanted
};

// weight gradient[k][column] += sum over the band's pixels of x[p + k's tap][k's channel] * slope[p][column]
struct Stretch {  // of products whose x lie side by side
  int64_t offset, k, length, dy;
};

struct Outer {
  const Stretch* stretches;
  int n_stretches;
  int64_t depth;           // products of an output: rows of the gradient
  int64_t x_pixel, x_row;  // floats of the padded band of x
  Slope slope;
};

struct OuterData {
  const float* x;       // at pixel (band.first, 0)
  const float* planes;  // of the band with its borders
  Run* runs;            // memory for one run per row
  float* grad_weight;   // [plane][depth][2 vectors]
};

struct Kernels {
  int lanes;  // floats of a vector
  void (*gather)(const Gather&, const Band&, const GatherData&) noexcept;
  void (*slope)(const Slope&, const Band&, const SlopeData&) noexcept;
  void (*outer)(const Outer&, const Band&, const OuterData&) noexcept;
};

}  // namespace vlae::masked_conv
