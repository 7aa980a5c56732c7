// Runs a program over a batch: tiles of samples, or one tile shared by all threads.
#pragma once

#include "program.h"

namespace vlae {

void run_program(const char* op, const Program& program, const PixelcnnKernels& kernels, int64_t batch, int threads);

}  // namespace vlae
