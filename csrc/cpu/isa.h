// The instruction sets compiled into this library, best first, and which of them this machine runs.
#pragma once

#include <string>
#include <vector>

#include "made_inverse/plan.h"
#include "masked_conv/conv.h"
#include "masked_linear/layer.h"
#include "pixelcnn_sample/program.h"

namespace vlae {

// The kernels of one instruction set, a member per op family.
struct IsaKernels {
  MaskedConvKernels masked_conv;
  PixelcnnKernels pixelcnn;
  MadeKernels made;
  LinearKernels linear;
};

struct Isa {
  const char* name;
  int id;  // kept in packed tensors: never reuse a number
  IsaKernels kernels;
};

const std::vector<Isa>& runnable_isas();
std::string runnable_names();
// "" is the best one.
const Isa& isa_by_name(const char* op, const std::string& name);
const Isa& isa_by_id(const char* op, int id);

}  // namespace vlae
