// One stage of a sampling program over one wave, for one instruction set.
//
// Rows of the matrix product are samples x pixels of the wave, up to kMaxRows a block; columns are the stage's channels, a
// panel of two vectors at a time. What makes it fast: a block's rows are read in place (no im2col), its weights stream once
// per block, and bias, condition, activation and residual are applied to a block that is still in the nearest cache.
#include "../gemm_rows.h"
#include "program.h"

namespace vlae {
namespace VLAE_ISA {
namespace {

// Where the rows of a block read and write.
struct Rows {
  int count;
  const float* source[kMaxSources][kMaxRows];
  const float* residual[kMaxRows];
  const float* cond[kMaxRows];
  float* out[kMaxRows];
};

// A vector of columns before the activation: the first channel it holds, and how many of its lanes are no padding.
struct Columns {
  int64_t first, count;
};

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

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

Columns columns_of(const Stage& stage, int64_t vec) {
  const bool gate = stage.activation == Activation::gate;
  const int64_t channel = (gate ? vec / 2 : vec) * kLanes;
  return {gate && vec % 2 ? stage.out_channels + channel : channel, least(kLanes, stage.out_channels - channel)};
}

// block = bias + cond
void start(const Stage& stage, int64_t first_vec, int vecs, const Rows& rows, float* block) {
  for (int v = 0; v < vecs; ++v) {
    const Vec bias = load(stage.bias + (first_vec + v) * kLanes);
    const Columns columns = columns_of(stage, first_vec + v);
    for (int r = 0; r < rows.count; ++r) {
      const Vec value = stage.cond >= 0 ? bias + load_some(rows.cond[r] + columns.first, columns.count) : bias;
      store(block + r * kPanel + v * kLanes, value);
    }
  }
}

// Never inlined: one copy of the arithmetic, on whole vectors, whatever the block's shape.
[[gnu::noinline]] void activate(Activation activation, int rows, int vecs, float* block) {
  for (int r = 0; r < rows; ++r) {
    float* row = block + r * kPanel;
    if (activation == Activation::gate) {
      store(row, gate(load(row), load(row + kLanes)));
      continue;
    }
    for (int v = 0; v < vecs; ++v, row += kLanes)
      store(row, activation == Activation::relu ? relu(load(row)) : elu(load(row)));
  }
}

// out = block (+ residual), `count` channels from `channel` on.
void finish(const Rows& rows, bool residual, int64_t channel, int64_t count, const float* block) {
  for (int r = 0; r < rows.count; ++r) {
    const float* from = block + r * kPanel;
    const float* add = residual ? rows.residual[r] + channel : nullptr;
    float* to = rows.out[r] + channel;
    int64_t c = 0;
    for (; c + kLanes <= count; c += kLanes) store(to + c, add ? load(from + c) + load(add + c) : load(from + c));
    for (; c < count; ++c) to[c] = add ? from[c] + add[c] : from[c];
  }
}

template <int Vecs, int Panels>
void run_panels(const Stage& stage, int64_t first, const Rows& rows) {
  alignas(64) float block[Panels * kBlock];
  for (int p = 0; p < Panels; ++p) start(stage, (first + p) * kPanelVecs, Vecs, rows, block + p * kBlock);
  const int64_t stride = stage.depth * kPanel;
  for (int s = 0; s < stage.n_sources; ++s)
    GemmTable<Vecs, Panels>::by_rows[rows.count - 1](stage.sources[s].runs, stage.sources[s].n_runs, rows.source[s],
                                                     stage.weight + first * stride, stride, block);
  const int64_t width = stage.activation == Activation::gate ? kLanes : kPanel;
  for (int p = 0; p < Panels; ++p) {
    if (stage.activation != Activation::none) activate(stage.activation, rows.count, Vecs, block + p * kBlock);
    const int64_t channel = (first + p) * width;
    finish(rows, stage.residual >= 0, channel, least(width, stage.out_channels - channel), block + p * kBlock);
  }
}

void run_columns(const Stage& stage, int64_t first, int64_t last, const Rows& rows) {
  for (int64_t panel = first; panel < last;) {
    const int64_t vecs = least(stage.vecs, last * kPanelVecs) - panel * kPanelVecs;
    if (rows.count <= kFewRows && vecs >= 2 * kPanelVecs) {
      run_panels<kPanelVecs, 2>(stage, panel, rows);
      panel += 2;
    } else {
      (vecs >= kPanelVecs ? run_panels<kPanelVecs, 1> : run_panels<1, 1>)(stage, panel, rows);
      ++panel;
    }
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
  Rows rows;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = begin + count * b / blocks;
    rows.count = static_cast<int>(begin + count * (b + 1) / blocks - first);
    locate(p, stage, wave, tile, first, rows);
    run_columns(stage, panels * column / columns, panels * (column + 1) / columns, rows);
  }
}

}  // namespace

PixelcnnKernels pixelcnn_kernels() { return {kLanes, run_stage}; }

}  // namespace VLAE_ISA
}  // namespace vlae
