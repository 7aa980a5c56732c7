// The gradient of x from a band's slope, in one of two ways.
//
// Gather: the forward's kernel with mirrored taps, channels of x in the vector lanes. Where x has so few channels that most
// lanes would be padding (an image), spread: one product gives what a pixel adds to every tap and channel it reads, taps in
// the lanes, and those are then added up where they belong.
#pragma once

#include <vector>

#include "arguments.h"

namespace vlae::masked_conv {

class GradX {
 public:
  GradX(const ConvArguments& arguments, const Slope& slope, const Kernels& kernels, int64_t band_rows);

  int64_t scratch_floats() const { return scratch_floats_; }
  // out, and the residual that is added to it, nullptr for none: of the image, [H, W, C_in].
  void run(const Band& band, const float* planes, float* scratch, const float* residual, float* out) const;

 private:
  void run_spread(const Band& band, const float* planes, float* scratch, const float* residual, float* out) const;

  const ConvArguments& a_;
  const Slope& slope_;
  const Kernels& kernels_;
  bool spread_ = false;
  int64_t scratch_floats_ = 0;
  Products products_;
  std::vector<float> packed_;
  Gather gather_;
};

}  // namespace vlae::masked_conv
