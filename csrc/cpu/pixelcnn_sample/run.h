// Runs a program over a batch: tiles of samples, or one tile shared by all threads.
#pragma once

#include "program.h"

namespace vlae::pixelcnn_sample {

// Samples whose caches are in use at a time.
int64_t cached_samples(const Program& program, int64_t batch, int threads);

// caches: of that many samples, zeros or what a call of the same program has left there.
void run_program(const char* op, const Program& program, const Kernels& kernels, int64_t batch, int threads, float* caches);

}  // namespace vlae::pixelcnn_sample
