// A checked plan becomes the kernel's Program.
#pragma once

#include "packing.h"
#include "program.h"

namespace vlae::cuda {

// What a sample sees beside the image: nothing, one vector, or one per pixel.
enum class ContextKind { none, vector, map };

// The plan's schedule must have been checked for this height and width. Throws where a limit of the kernel is in the way.
Program bind(const char* op, const Plan& plan, const PackedLayout& layout, int64_t height, int64_t width, ContextKind context);

}  // namespace vlae::cuda
