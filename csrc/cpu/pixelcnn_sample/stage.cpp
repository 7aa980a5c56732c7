// One stage of a sampling program over one wave, for one instruction set.
//
// Rows of the matrix product are samples x pixels of the wave, up to kMaxRows a block; columns are the stage's channels, a
// panel of two vectors at a time. See row_blocks.h for what makes it fast.
#include "../row_blocks.h"
#include "program.h"

namespace vlae::pixelcnn_sample::VLAE_ISA {

using namespace vlae::VLAE_ISA;

namespace {

// Where the rows of a block read and write.
struct Rows {
  int count;
  const float* source[kMaxSources][kMaxRows];
  const float* residual[kMaxRows];
  const float* cond[kMaxRows];
  float* out[kMaxRows];
};

float* pixel_at(const Program& p, int64_t buffer, float* cache, int64_t i, int64_t j) {
  const Buffer& b = p.buffers[buffer];
  return cache + b.origin + (i * b.row + j) * b.channels;
}

void locate(const Program& p, const Stage& stage, const Wave& wave, const Tile& tile, int64_t first, Rows& rows) {
  for (int r = 0; r < rows.count; ++r) {
    const int64_t sample = (first + r) / wave.pixels, i = wave.top + (first + r) % wave.pixels;
    const int64_t j = wave.index - p.slope * i;
    float* cache = tile.cache + sample * p.sample_floats;
    for (int s = 0; s < stage.n_sources; ++s) rows.source[s][r] = pixel_at(p, stage.sources[s].buffer, cache, i, j);
    rows.out[r] = pixel_at(p, stage.out, cache, i, j);
    if (stage.residual >= 0) rows.residual[r] = pixel_at(p, stage.residual, cache, i, j);
    if (stage.cond >= 0) rows.cond[r] = pixel_at(p, stage.cond, cache, i, j);
  }
}

// A part is a range of panels and a range of rows.
void run_stage(const Program& p, const Stage& stage, const Wave& wave, const Tile& tile, Part part) noexcept {
  const int64_t panels = (stage.vecs + kPanelVecs - 1) / kPanelVecs;
  const int64_t columns = least(part.count, panels), lines = part.count / columns;
  const int64_t column = part.index % columns, line = part.index / columns;
  if (line >= lines) return;
  const int64_t all = wave.pixels * tile.count;
  const int64_t begin = all * line / lines, count = all * (line + 1) / lines - begin;
  const int64_t blocks = (count + kMaxRows - 1) / kMaxRows;
  const Layer layer = {stage.activation, stage.out_channels, stage.depth, stage.vecs, stage.bias, stage.weight};
  Rows rows;
  Product products[kMaxSources];
  for (int s = 0; s < stage.n_sources; ++s)
    products[s] = {stage.sources[s].runs, stage.sources[s].n_runs, false, rows.source[s]};
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = begin + count * b / blocks;
    rows.count = static_cast<int>(begin + count * (b + 1) / blocks - first);
    locate(p, stage, wave, tile, first, rows);
    const RowBlock block = {rows.count,
                            stage.n_sources,
                            products,
                            stage.cond >= 0 ? rows.cond : nullptr,
                            stage.residual >= 0 ? rows.residual : nullptr,
                            rows.out,
                            nullptr};
    run_columns(layer, panels * column / columns, panels * (column + 1) / columns, block);
  }
}

}  // namespace

Kernels kernels() { return {kLanes, run_stage}; }

}  // namespace vlae::pixelcnn_sample::VLAE_ISA
