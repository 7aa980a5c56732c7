// Makes the kernel's Program from a checked plan.
#pragma once

#include "packing.h"
#include "program.h"

namespace vlae::cuda::pixelcnn_sample {

// The context of a sample: none, one vector, or one per pixel.
enum class ContextKind { none, vector, map };

// Numbers sections, which end where stages say, and finds what each warp takes after a stage.
void link_stages(Program& program);

// What a Program says of images of any size. Throws where a limit of the kernel is in the way.
Program program_of(const char* op, const Plan& plan, const Packing& packing);

// The whole of it. The plan's schedule must have been checked for this height and width. Throws where a limit of the kernel is
// in the way.
Program bind(const char* op, const Plan& plan, const Packing& packing, int64_t height, int64_t width, ContextKind context);

}  // namespace vlae::cuda::pixelcnn_sample
