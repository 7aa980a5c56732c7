// The sampling program as the caller writes it: a list of int64, checked before anything is computed. Shared by the
// libraries of every device.
//
//   4 (version), C, emit's kind, levels and components, slope, number of stages, then per stage
//   out_channels, activation, residual, context_dim, lead, kind, factor, the sites' stride, row and column, joins,
//   heads, number of sources, then per source
//   buffer, number of taps, then per tap dy, dx
//   then the number of draws, and per draw after, buffer
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "../activation.h"
#include "../tap.h"
#include "emit.h"
#include "limits.h"
#include "sites.h"

namespace vlae {

struct PlanSource {
  int64_t buffer;
  std::vector<Tap> taps;
};

// sum: of products with its sources. norm: of the channels of its one source at its own pixel, to mean 0 and variance 1.
// attend: of the values of all pixels up to its own, or to the one before, in raster order, weighted by softmax(scale q . k);
// the sources are q, k and v.
enum class StageKind : int32_t { sum, norm, attend };

struct PlanStage {
  int64_t out_channels;  // C, after the gate
  int64_t residual, lead;
  Activation activation;
  int64_t context_dim;  // channels of the context that the stage sees, 0 for none
  std::vector<PlanSource> sources;
  StageKind kind = StageKind::sum;
  int64_t factor = -1;      // buffer that the activation is multiplied by, or -1
  Sites sites = {1, 0, 0};  // that it computes
  int64_t joins = -1;       // buffer of another stage that it writes, or -1: its own
  int64_t heads = 0;        // of attention, else 0

  // P, channels before the gate.
  int64_t columns() const { return is_pair(activation) ? 2 * out_channels : out_channels; }
};

// Channels first .. first + count - 1 are drawn from a buffer when the first `after` stages of a step have run.
struct PlanDraw {
  int64_t after, buffer, first, count;
};

struct Plan {
  Emit emit;
  int64_t slope;
  std::vector<int64_t> channels;  // of every buffer: the image, then each stage's output
  std::vector<PlanStage> stages;
  std::vector<PlanDraw> draws;  // one of all channels, or one of each in turn
  // Of every buffer its stride, and the stage that writes the pixels of each of its rows and columns, [stride * stride];
  // below 0 where none does.
  std::vector<int64_t> strides;
  std::vector<std::vector<int32_t>> phases;
  int64_t context_dim;  // channels of the context, the same in every stage that sees it; 0 where none does
  uint64_t checksum;

  int64_t image_channels() const { return channels[0]; }
  int64_t params() const;  // of a pixel
  int64_t noises() const;  // planes of noise
  // False where the stage of that number writes the buffer of another one.
  bool is_own(std::size_t buffer) const { return buffer == 0 || stages[buffer - 1].joins < 0; }
  // The buffer that a stage writes.
  int64_t written_by(std::size_t stage) const {
    return stages[stage].joins < 0 ? static_cast<int64_t>(stage) + 1 : stages[stage].joins;
  }
};

// Throws unless the plan is well formed whatever the image's size.
Plan parse_plan(const char* op, const std::vector<int64_t>& words);

}  // namespace vlae
