// Runs a program over a batch: tiles of samples, or one tile shared by all threads.
#pragma once

#include "program.h"

namespace vlae::pixelcnn_sample {

void run_program(const char* op, const Program& program, const Kernels& kernels, int64_t batch, int threads);

}  // namespace vlae::pixelcnn_sample
