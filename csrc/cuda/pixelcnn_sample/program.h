// A sampling program as the kernel reads it, its stages section by section, cf. sections.h: plain data that travels in the
// kernel's parameters, which every thread reads through the constant cache, and which a CUDA graph keeps.
#pragma once

#include <cstdint>

#include "../../activation.h"
#include "../../pixelcnn_sample/emit.h"
#include "../divisor.h"
#include "format.h"

namespace vlae::cuda::pixelcnn_sample {

constexpr int kWarps = 8;  // in a thread block
constexpr int kMaxStages = 96;
constexpr int kBehind = 128;
constexpr int kMaxTaps = 1024;
constexpr int kMaxDraws = 64;

// The last waves of a buffer: wave w is written into the place of wave w - waves, which nobody reads any more.
struct Ring {
  int32_t at;      // place, in values from the start of a sample's rings
  int32_t stride;  // values per pixel: its channels, rounded up to whole groups, and padding
  int32_t groups;  // of channels
  Divisor waves;
};

// A tap of one of a stage's sources.
struct SourceTap {
  int32_t buffer, dy, dx;
  int32_t group;  // the first of its groups of products
};

// Number of batches of reads that reads first .. end - 1 of a row touch.
VLAE_HOST_DEVICE constexpr int32_t batches_of(int32_t first, int32_t end, int32_t batch) {
  return (end - 1) / batch - first / batch + 1;
}

// gate: that activation, without factor and residual, as most stages have it. factor: with one, and perhaps a residual. norm:
// of its source's channels; it has bias, and in place of weights gain and then eps.
enum class Kind : int32_t { plain, gate, residual, factor, norm };

// What a warp must know of a stage before it computes a part of it; read 16 bytes at once.
struct alignas(16) Head {
  int32_t weight, tiles;  // place of the weights in units of 16 bytes; tiles of products
  int32_t bias;           // place in units of 8 bytes
  int32_t place;          // the first place that a row reads, among those of all stages
  int32_t places;         // and the first of its other places, which are behind those
  int32_t channels;       // C: the channels that are written
  int32_t columns;        // P: the channels before the gate, rounded up as in the packed weights
  int32_t cond;           // the first column of its condition, or -1
  Activation activation;
  Kind kind;
  int32_t section, warp;  // warp: that takes its first 16 columns
};
static_assert(sizeof(Head) == 48);

struct Stage : Head {
  int32_t lead;
  int32_t first_entry, n_entries;  // of what says where rows read and write, cf. rows.h
  int8_t out, residual, factor;    // buffers; -1: none
  uint8_t row, column;             // of its sites
  uint8_t end;                     // behind the last stage of its section
  Divisor stride;                  // of its sites
  int32_t taps, n_taps;
  // Of each warp the next stage of which it has columns, behind the last one in the next step, kBehind more where a barrier
  // comes first; or kMaxStages. And its first of this section, to which it comes back for the next rows.
  uint8_t next[kWarps], again[kWarps];

  VLAE_HOST_DEVICE int32_t reads() const { return places - place; }  // of a row: its groups of products
};

// Channels first .. first + count - 1, from the `params` values of a buffer, when the first `after` stages of a step have run,
// which are `sections`.
struct DrawAt {
  int32_t after, sections, buffer, first, count;
  Divisor params;
};

struct Program {
  Dtype dtype;
  int32_t height, width, steps;
  Divisor slope;
  int32_t first_step;                      // below 0: stages that run ahead start before the first pixel is drawn
  Divisor rows;                            // in the widest wave
  int32_t sample_size;                     // values in the rings of a sample
  int32_t zero_size;                       // values in the pixel of zeros that is read outside the image
  int32_t image_channels, params, noises;  // channels of the image, of its parameters, of noise
  int32_t n_stages, n_taps, n_draws;
  int32_t n_sections, n_entries, places;  // of all stages
  int32_t most_places;                    // of a section
  int32_t busy;                           // warps that have columns before the last draw; 0 where most have
  Emit emit;
  int32_t cond_columns, cond_pixels;  // pixels of a sample's conditions: 0 without a context, 1 or height * width
  Ring rings[kMaxStages + 1];
  Stage stages[kMaxStages];
  SourceTap taps[kMaxTaps];
  DrawAt draws[kMaxDraws];
};
static_assert(sizeof(Program) <= 32600, "a kernel has 32764 bytes of parameters");

// The first of what a row reads of a tap; behind the last tap the end, with what fills the last batch.
VLAE_HOST_DEVICE inline int32_t first_read(const Program& p, const Stage& stage, int32_t tap) {
  return tap == stage.n_taps ? stage.reads() : p.taps[stage.taps + tap].group;
}

// The tensors of a call. images and known [B, C, H, W], noise and params [B, n, H, W], all of the program's dtype; cond
// [B, cond_pixels, cond_columns].
struct Tensors {
  const void *packed, *noise, *known;
  const float* cond;
  const bool* known_mask;  // nullptr: nothing is known
  void *images, *params;
  double temperature;
  int64_t batch;
};

// Values from the start of a sample's rings to a pixel of a wave. Neither the waves nor the rows that live at the same time
// meet in a slot: a wave has at most p.rows of them, one below the other.
VLAE_HOST_DEVICE inline int32_t slot_of(const Program& p, int32_t buffer, int32_t wave, int32_t row) {
  const Ring& ring = p.rings[buffer];
  return ring.at + (wave % ring.waves * p.rows + row % p.rows) * ring.stride;
}

}  // namespace vlae::cuda::pixelcnn_sample
