// Runs a program over a batch: tiles of samples, or one tile shared by all threads; to its end, or up to a draw.
#pragma once

#include "program.h"

namespace vlae::pixelcnn_sample {

// Samples whose caches are in use at a time.
int64_t cached_samples(const Program& program, int64_t batch, int threads);

// caches: of that many samples, zeros or what a call of the same program has left there.
void run_program(const char* op, const Program& program, const Kernels& kernels, int64_t batch, int threads, float* caches);

// Where a program stands: before stage `stage` of a step, whose next draw is `draw`. At the start all are 0.
struct Cursor {
  int64_t step = 0, stage = 0, draw = 0;
};

// The cursor behind a draw of a step.
Cursor behind(const Program& program, int64_t step, int64_t draw);

// Goes on up to the next draw that has a pixel, and returns the cursor at it; its step is that of the program where none is
// left. caches: of all samples of the batch, zeros at the start.
Cursor run_to_draw(const char* op, const Program& program, const Kernels& kernels, int64_t batch, int threads, float* caches,
                   Cursor from);

}  // namespace vlae::pixelcnn_sample
