// One stage of a sampling program over one wave, for one instruction set.
//
// Rows of the matrix product are samples x pixels of the wave, up to kMaxRows a block; columns are the stage's channels, a
// panel of two vectors at a time. See row_blocks.h for what makes it fast.
#include "../row_blocks.h"
#include "attend.h"
#include "program.h"

namespace vlae::pixelcnn_sample::VLAE_ISA {

using namespace vlae::VLAE_ISA;

namespace {

// Where the rows of a block read and write.
struct Rows {
  int count;
  const float* source[kMaxProducts][kMaxRows];
  const float* residual[kMaxRows];
  const float* factor[kMaxRows];
  const float* cond[kMaxRows];
  float* out[kMaxRows];
};

float* pixel_at(const Program& p, int64_t buffer, float* cache, int64_t i, int64_t j) {
  const Buffer& b = p.buffers[buffer];
  return cache + b.origin + (i * b.row + j) * b.pixel;
}

void locate(const Program& p, const Stage& stage, const Wave& wave, const Tile& tile, int64_t first, Rows& rows) {
  for (int r = 0; r < rows.count; ++r) {
    const int64_t sample = (first + r) / wave.pixels, i = wave.top + (first + r) % wave.pixels * wave.step;
    const int64_t j = wave.index - p.slope * i;
    float* cache = tile.cache + sample * p.sample_floats;
    for (int s = 0; s < stage.n_sources; ++s) rows.source[s][r] = pixel_at(p, stage.sources[s].buffer, cache, i, j);
    rows.out[r] = pixel_at(p, stage.out, cache, i, j);
    if (stage.residual >= 0) rows.residual[r] = pixel_at(p, stage.residual, cache, i, j);
    if (stage.factor >= 0) rows.factor[r] = pixel_at(p, stage.factor, cache, i, j);
    if (stage.cond >= 0) rows.cond[r] = pixel_at(p, stage.cond, cache, i, j);
  }
}

// out = act(pre) (* factor, + residual), `count` channels of a pixel from `at` on.
template <typename Values, typename Out>
void write_some(const Stage& stage, Vec pre, int64_t at, int64_t count, const Rows& rows, int row) {
  Vec value = apply_in_stage(stage.activation, pre);
  if (stage.factor >= 0) value *= Values::load(rows.factor[row], at, count);
  if (stage.residual >= 0) value += Values::load(rows.residual[row], at, count);
  Out::store(rows.out[row], at, value, count);
}

// out = act( (x - mean) / sqrt(var + eps) * gain + bias ) (* factor, + residual), channels added in one order in every call.
template <typename Values, typename Out>
void normalise(const Stage& stage, const Rows& rows, int row) {
  const float* x = rows.source[0][row];
  const int64_t n = stage.out_channels, vecs = (n + kLanes - 1) / kLanes;
  const float *gain = stage.weight, scale = 1.0f / static_cast<float>(n), eps = gain[stage.vecs * kLanes];
  Vec sum = {}, squares = {};
  for (int64_t v = 0; v < vecs; ++v) sum += Values::load(x, v * kLanes, least(kLanes, n - v * kLanes));
  const Vec mean = splat(sum_lanes(sum) * scale);
  for (int64_t v = 0; v < vecs; ++v) {
    alignas(64) float centred[kLanes] = {};
    const int64_t count = least(kLanes, n - v * kLanes);
    store_some(centred, Values::load(x, v * kLanes, count) - mean, count);
    squares = load(centred) * load(centred) + squares;
  }
  const Vec factors = splat(1.0f / __builtin_sqrtf(sum_lanes(squares) * scale + eps));
  for (int64_t v = 0; v < vecs; ++v) {
    const int64_t at = v * kLanes, count = least(kLanes, n - at);
    const Vec pre = (Values::load(x, at, count) - mean) * factors * load(gain + at) + load(stage.bias + at);
    write_some<Values, Out>(stage, pre, at, count, rows, row);
  }
}

template <typename Values, typename Out>
void run_norm(const Program& p, const Stage& stage, const Wave& wave, const Tile& tile) {
  const int64_t all = wave.pixels * tile.count;
  Rows rows;
  for (int64_t first = 0; first < all; first += kMaxRows) {
    rows.count = static_cast<int>(least(kMaxRows, all - first));
    locate(p, stage, wave, tile, first, rows);
    for (int r = 0; r < rows.count; ++r) normalise<Values, Out>(stage, rows, r);
  }
}

// The pixels of row i up to column `end`, from the pixel (i, 0) of k and v on.
Stretch row_of(const Program& p, const Stage& stage, float* cache, int64_t i, int64_t end) {
  const int64_t k = stage.sources[1].buffer, v = stage.sources[2].buffer;
  return {pixel_at(p, k, cache, i, 0), pixel_at(p, v, cache, i, 0), p.buffers[k].pixel, p.buffers[v].pixel, end};
}

// One head of pixel (i, j), whose sums of values grow where the result goes, if that is float32.
template <typename Values, typename Out>
void attend(const Program& p, const Stage& stage, float* cache, int64_t n, int64_t i, int64_t j, const Rows& rows) {
  const Buffer &k = p.buffers[stage.sources[1].buffer], &v = p.buffers[stage.sources[2].buffer];
  const int64_t width = v.channels / stage.heads, depth = k.channels / stage.heads, first = n * width, end = j + stage.itself;
  const Head head = {rows.source[0][0], depth, n * depth, width, first, stage.weight[0]};
  alignas(64) float apart[Out::floats(2) == 2 ? 1 : kMaxPairedWidth];
  float* sums = Out::floats(2) == 2 ? rows.out[0] + first : apart;
  for (int64_t c = 0; c < width; c += kLanes) store_some(sums + c, Vec{}, least(kLanes, width - c));
  Softmax softmax = {-3e38f, 0};
  if (k.row == p.width && v.row == p.width) {  // one row goes on in the next
    add_stretch<Values>(head, row_of(p, stage, cache, 0, i * p.width + end), softmax, sums);
  } else {
    for (int64_t y = 0; y <= i; ++y)
      add_stretch<Values>(head, row_of(p, stage, cache, y, y < i ? p.width : end), softmax, sums);
  }
  const Vec scale = splat(softmax.sum > 0 ? 1.0f / softmax.sum : 0.0f);
  for (int64_t c = 0; c < width; c += kLanes) {
    const int64_t count = least(kLanes, width - c);
    write_some<Values, Out>(stage, load_some(sums + c, count) * scale, first + c, count, rows, 0);
  }
}

// A part is a range of heads of pixels.
template <typename Values, typename Out>
void run_attention(const Program& p, const Stage& stage, const Wave& wave, const Tile& tile, Part part) {
  const int64_t all = wave.pixels * tile.count * stage.heads;
  Rows rows;
  rows.count = 1;
  for (int64_t item = all * part.index / part.count; item < all * (part.index + 1) / part.count; ++item) {
    const int64_t row = item / stage.heads, i = wave.top + row % wave.pixels * wave.step;
    locate(p, stage, wave, tile, row, rows);
    attend<Values, Out>(p, stage, tile.cache + row / wave.pixels * p.sample_floats, item % stage.heads, i,
                        wave.index - p.slope * i, rows);
  }
}

// A part is a range of panels and a range of rows.
template <typename Values, typename Out>
void run_sum(const Program& p, const Stage& stage, const Wave& wave, const Tile& tile, Part part) {
  const int64_t panels = (stage.vecs + kPanelVecs - 1) / kPanelVecs;
  const int64_t columns = least(part.count, panels), lines = part.count / columns;
  const int64_t column = part.index % columns, line = part.index / columns;
  if (line >= lines) return;
  const int64_t all = wave.pixels * tile.count;
  const int64_t begin = all * line / lines, count = all * (line + 1) / lines - begin;
  const int64_t blocks = (count + kMaxRows - 1) / kMaxRows;
  const Layer layer = {stage.activation, stage.out_channels, stage.depth, stage.vecs, stage.bias, stage.weight};
  Rows rows;
  Product products[kMaxProducts];
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
                            nullptr,
                            stage.factor >= 0 ? rows.factor : nullptr};
    run_columns<Values, Out>(layer, panels * column / columns, panels * (column + 1) / columns, block);
  }
}

template <typename Values, typename Out>
void run_as(const Program& p, const Stage& stage, const Wave& wave, const Tile& tile, Part part) {
  if (stage.heads > 0) return run_attention<Values, Out>(p, stage, wave, tile, part);
  if (!stage.is_norm) return run_sum<Values, Out>(p, stage, wave, tile, part);
  if (part.index == 0) run_norm<Values, Out>(p, stage, wave, tile);
}

void run_stage(const Program& p, const Stage& stage, const Wave& wave, const Tile& tile, Part part) noexcept {
  const bool pairs = stage.reads == Storage::bfloat16, pairs_out = stage.writes == Storage::bfloat16;
  const auto run = !pairs ? run_as<Float32, Float32> : pairs_out ? run_as<Bfloat16, Bfloat16> : run_as<Bfloat16, Float32>;
  run(p, stage, wave, tile, part);
}

}  // namespace

Kernels kernels() { return {kLanes, run_stage}; }

}  // namespace vlae::pixelcnn_sample::VLAE_ISA
