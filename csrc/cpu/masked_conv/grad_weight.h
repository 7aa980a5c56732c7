// The weight gradient: a matrix product over all pixels, summed in chunks of bands whose number depends on shapes alone, then
// over chunks in their order.
#pragma once

#include <vector>

#include "arguments.h"

namespace vlae::masked_conv {

class GradWeight {
 public:
  GradWeight(const ConvArguments& arguments, const Slope& slope, const Kernels& kernels);

  int64_t floats_of_chunk() const { return floats_; }
  // memory: for `chunks` chunks.
  void start(float* memory, int64_t chunks) { partials_ = memory, chunks_ = chunks; }
  void clear(int64_t chunk) const;
  // x: at pixel (band.first, 0) of a padded band. runs: memory for one run a row.
  void add(const Band& band, int64_t chunk, const float* x, const float* planes, Run* runs) const;
  // The chunks into the first one, then its live entries to where they belong.
  void finish(float* weight) const;

 private:
  float* partial(int64_t chunk) const { return partials_ + chunk * floats_; }

  const ConvArguments& a_;
  const Slope& slope_;
  const Kernels& kernels_;
  Products products_;
  std::vector<Stretch> stretches_;
  Outer outer_;
  int64_t floats_, chunks_ = 0;
  float* partials_ = nullptr;
};

}  // namespace vlae::masked_conv
