// The sampling program as the caller writes it: a list of int64, checked before anything is computed. Shared by the
// libraries of every device.
//
//   2 (version), C, emit's kind, levels and components, slope, number of stages, then per stage
//   out_channels, activation, residual, context_dim, lead, number of sources, then per source
//   buffer, number of taps, then per tap dy, dx
#pragma once

#include <cstdint>
#include <vector>

#include "../activation.h"
#include "../tap.h"
#include "emit.h"
#include "limits.h"

namespace vlae {

struct PlanSource {
  int64_t buffer;
  std::vector<Tap> taps;
};

struct PlanStage {
  int64_t out_channels;  // C, after the gate
  int64_t residual, lead;
  Activation activation;
  int64_t context_dim;  // channels of the context that the stage sees, 0 for none
  std::vector<PlanSource> sources;

  // P, channels before the gate.
  int64_t columns() const { return is_pair(activation) ? 2 * out_channels : out_channels; }
};

struct Plan {
  Emit emit;
  int64_t slope;
  std::vector<int64_t> channels;  // of every buffer: the image, then each stage's output
  std::vector<PlanStage> stages;
  int64_t context_dim;  // channels of the context, the same in every stage that sees it; 0 where none does
  uint64_t checksum;

  int64_t image_channels() const { return channels[0]; }
  int64_t params() const;  // channels of what a pixel is drawn from, the last buffer
  int64_t noises() const;  // planes of noise
};

// Throws unless the plan is well formed whatever the image's size.
Plan parse_plan(const char* op, const std::vector<int64_t>& words);

// Throws unless every value is computed before it is read, on an image of this size.
void check_schedule(const char* op, const Plan& plan, int64_t height, int64_t width);

// True if the tap can read a pixel of the image at all; others contribute nothing.
bool lands(const Tap& tap, int64_t height, int64_t width);

}  // namespace vlae
