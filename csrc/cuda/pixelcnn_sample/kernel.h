// The launches of sample.cu, for the code that knows tensors.
#pragma once

#include "program.h"
#include "tiling.h"

namespace vlae::cuda::pixelcnn_sample {

// The limits of the current device.
Limits device_limits(const char* op);

// cond = context * matrix, for every sample (and pixel): [rows, columns] from [rows, dim], in float32 from any dtype.
struct Condition {
  const void *context, *matrix;
  float* cond;
  int64_t rows;
  int32_t dim, columns;
};
void run_condition(const char* op, Dtype dtype, const Condition& condition, void* stream);

// caches: the rings of every thread block, where they are in global memory.
void run_program(const char* op, const Program& program, const Tiling& tiling, const Tensors& tensors, void* caches,
                 void* stream);

// "", or why the kernels cannot run on the current device.
const char* why_not();

}  // namespace vlae::cuda::pixelcnn_sample
