// Sums over pixels: gradients of biases and weights. They are taken in parts that depend on shapes alone, then over these in
// their order, so their bits do not depend on the number of threads.
#pragma once

#include "../../narrow.h"
#include "tile_arguments.h"

namespace vlae::masked_conv {

// Of the slope, which is computed on the way: a part is some pixels of one image.
class ColumnSums {
 public:
  ColumnSums(const char* op, const ConvArguments& arguments);

  // wanted: without, there is the slope alone.
  void run(const TileKernels& kernels, const TileSlope& slope, bool wanted);
  // bias: [P]; cond: [B, P]; nullptr where it is not wanted.
  void finish(float* bias, float* cond) const;

 private:
  const char* op_;
  const ConvArguments& a_;
  const int64_t parts_;
  std::vector<float> sums_;
};

// Of the slope times the windows: a part is a chunk of the pixels.
class OuterSums {
 public:
  OuterSums(const char* op, const ConvArguments& arguments, const Windows& windows);

  void run(const TileKernels& kernels, const WindowData& from, const Half* slope);
  // Of the products from `first` on into a part's weights, those that are alive.
  void finish(const TileWeights& part, int64_t first, float* to) const;

 private:
  float sum(int64_t column, int64_t k) const;

  const char* op_;
  const ConvArguments& a_;
  const TileOuter outer_;
  const int64_t tiles_;                   // of products
  const int64_t floats_, chunks_, step_;  // of a part; parts; pixels of a part
  const ZeroedFloats sums_;
};

}  // namespace vlae::masked_conv
