// What one band costs: the convolution, the slope of the activation, and the weight gradient, for one instruction set.
#include "gather.h"
#include "outer.h"
#include "slope.h"

namespace vlae {
namespace VLAE_ISA {

MaskedConvKernels masked_conv_kernels() { return {kLanes, gather_band, slope_band, outer_band}; }

}  // namespace VLAE_ISA
}  // namespace vlae
