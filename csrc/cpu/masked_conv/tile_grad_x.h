// The gradient of x from the slope by matrix tiles, in the two ways of grad_x.h: by mirrored taps; or, where x has few
// channels, by what a pixel adds to every tap and channel that it reads.
#pragma once

#include "tile_arguments.h"

namespace vlae::masked_conv {

// residual: [pixel][C_in], which is added; nullptr for none.
void run_grad_x(const char* op, const ConvArguments& a, const TileKernels& kernels, const Half* slope, const Half* residual,
                Half* out);

}  // namespace vlae::masked_conv
