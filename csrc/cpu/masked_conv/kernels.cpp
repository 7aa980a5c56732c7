// The work on one band: the convolution, the slope of the activation, and the weight gradient, for one instruction set.
#include "gather.h"
#include "outer.h"
#include "slope.h"

namespace vlae::masked_conv::VLAE_ISA {

using namespace vlae::VLAE_ISA;

Kernels kernels() { return {kLanes, gather_band, slope_band, outer_band}; }

}  // namespace vlae::masked_conv::VLAE_ISA
