// A sampling program bound to its tensors: plain data that the executors of every instruction set share.
// No inline functions and no containers here: the per-instruction-set files must not instantiate shared code.
#pragma once

#include <cstdint>

#include "../../pixelcnn_sample/emit.h"
#include "../../pixelcnn_sample/limits.h"
#include "../../pixelcnn_sample/sites.h"
#include "../layer.h"
#include "../storage.h"

namespace vlae::pixelcnn_sample {

// One cache of one sample: channels_last, with a border of zeros as wide as the taps that read it reach. Strides of 0 make one
// value serve every pixel.
struct Buffer {
  int64_t origin;  // floats from the sample's cache to pixel (0, 0)
  int64_t row;     // pixels from a pixel to the one below
  int64_t pixel;   // floats from a pixel to its right neighbour
  int64_t channels;
  Storage storage;
};

constexpr int kMaxProducts = kMaxSources + 1;  // of a stage: with its sources, with a map of the context

struct Source {
  int64_t buffer;
  const Run* runs;
  int n_runs;
};

struct Stage {
  Activation activation;
  int n_sources;
  const Source* sources;
  int64_t out;       // buffer written
  int64_t residual;  // buffer added, or -1
  int64_t columns, out_channels, lead;
  int64_t depth, vecs;  // of the packed weights: products per output, vectors of columns
  const float *bias, *weight;
  int64_t cond;           // buffer added before the activation, or -1
  int64_t factor;         // buffer that the activation is multiplied by, or -1
  bool is_norm;           // of the channels of its source: bias, and in place of weights gain and then eps
  Sites sites;            // that it computes
  int64_t heads;          // of attention, whose sources are q, k and v and whose one weight is its scale, else 0
  bool itself;            // attention sees its own pixel
  Storage reads, writes;  // that of the buffers behind `sources`, `residual` and `factor`; that of `out`
};

// The tensor that stages see beside the image: [B, H, W, D] channels_last, a source of theirs; or [B, D], whose stages run once
// per sample, before the first step: their outputs are the conditions that the program's stages add.
struct Context {
  const float* data;              // nullptr: none
  int64_t buffer, pixels, depth;  // where a sample's copy goes; its numbers
  int64_t n_stages;
  const Stage* stages;
};

// The tensors of a draw: images and their known pixels [B, C, H, W], noise and parameters likewise.
struct Draw {
  Emit emit;
  int64_t noises, n_params;  // planes of noise and of parameters
  const float *noise, *known;
  const bool* known_mask;  // nullptr: nothing is known
  float *images, *params;
  double temperature;
};

// Channels first .. first + count - 1, from a buffer, when the first `after` stages of a step have run.
struct DrawAt {
  int64_t after, buffer, first, count;
};

struct Program {
  int64_t height, width, slope, steps;
  int64_t sample_floats;  // of one sample's caches
  int64_t n_stages;
  const Stage* stages;
  int64_t n_draws;
  const DrawAt* draws;
  const Buffer* buffers;
  Context context;
  Draw draw;
};

constexpr int64_t kMaxPairedWidth = 4096;  // channels of a head of attention whose values are bfloat16

// Pixels (i, j) with j + slope * i == index: rows i = top, top + step, ..., `pixels` of them.
struct Wave {
  int64_t index, top, pixels, step;
};

// Samples first .. first + count - 1 of the batch, and the memory of their caches.
struct Tile {
  float* cache;
  int64_t first, count;
};

// Part `index` of the `count` that a stage's work in a wave is cut into.
struct Part {
  int index, count;
};

using RunStage = void (*)(const Program&, const Stage&, const Wave&, const Tile&, Part) noexcept;

// Exported by stage.cpp for its instruction set.
struct Kernels {
  int lanes;  // floats of a vector
  RunStage run_stage;
};

constexpr Sites kEverywhere = {1, 0, 0};

Wave wave_at(const Program& program, const Sites& sites, int64_t index);
// The first wave from `index` on that has a pixel of the sites; INT64_MAX after the last.
int64_t next_wave(const Program& program, const Sites& sites, int64_t index);
// The first step from `step` on at which some stage or the draw has a pixel.
int64_t next_step(const Program& program, int64_t step);

void draw_wave(const Program& program, const DrawAt& at, const Wave& wave, const Tile& tile) noexcept;
// In two: the parameters [B, P of the draw, pixels] that the wave is drawn from, and the values [B, C of the draw, pixels] that
// somebody says it has. The tensors of the program's draw get both.
void show_wave(const Program& program, const DrawAt& at, const Wave& wave, const Tile& tile, float* params) noexcept;
void put_wave(const Program& program, const DrawAt& at, const Wave& wave, const Tile& tile, const float* values) noexcept;

}  // namespace vlae::pixelcnn_sample
