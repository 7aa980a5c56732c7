#include "tile_grad_x.h"

#include "../halves.h"

namespace vlae::masked_conv {
namespace {

float wide(Half half) { return get_value(Storage::bfloat16, reinterpret_cast<const float*>(&half), 0); }

// In blocks of products times columns.
bool spread_is_less(const ConvArguments& a) {
  const int64_t taps = static_cast<int64_t>(a.taps.list.size());
  const int64_t gathered = whole_blocks(taps * a.p) * whole_blocks(a.c_in),
                spread = whole_blocks(a.p) * whole_blocks(taps * a.c_in);
  return 2 * a.c_in <= kTileSide && 2 * spread < gathered;
}

// Of one image row: what the pixels that read it add. spread: [pixel][tap][channel] of the image.
void add_row(const ConvArguments& a, const float* spread, int64_t i, float* row) {
  const int64_t width = a.image.width, taps = static_cast<int64_t>(a.taps.list.size()), step = taps * a.c_in;
  for (int64_t t = 0; t < taps; ++t) {  // pixel (i - dy, j - dx) read (i, j)
    const Tap tap = a.taps.list[usize(t)];
    const int64_t from = i - tap.dy, first = std::max<int64_t>(0, tap.dx), last = std::min(width, width + tap.dx);
    if (from < 0 || from >= a.image.height) continue;
    const float* added = spread + (from * width + first - tap.dx) * step + t * a.c_in;
    for (int64_t j = first; j < last; ++j, added += step)
      for (int64_t c = 0; c < a.c_in; ++c) row[j * a.c_in + c] += added[c];
  }
}

void run_spread(const char* op, const ConvArguments& a, const TileKernels& kernels, const Half* slope, const Half* residual,
                Half* out) {
  const int64_t area = area_of(a), columns = static_cast<int64_t>(a.taps.list.size()) * a.c_in;
  const int64_t row_floats = a.image.width * a.c_in;
  const Windows windows(a.image, {{{0, 0}}, {0}, 1, {0, 0, 0, 0}}, a.p, 0);
  const TileLayer layer(windows, Activation::none, columns, {spread_weights(a)}, nullptr);
  const int64_t block_floats = kTileBlock * windows.window().depth / 2;
  run_tasks(op, {a.batch, a.batch, block_floats + area * columns + row_floats}, [&](int64_t n, const Worker& worker) {
    float *spread = worker.scratch + block_floats, *row = spread + area * columns;
    TileGatherData data = {};
    data.from.map = slope + n * area * a.p, data.sums = spread;
    kernels.gather(layer.gather(), data, 0, area, reinterpret_cast<Half*>(worker.scratch));
    for (int64_t i = 0; i < a.image.height; ++i) {
      const int64_t at = n * area * a.c_in + i * row_floats;
      for (int64_t k = 0; k < row_floats; ++k) row[k] = residual ? wide(residual[at + k]) : 0.0f;
      add_row(a, spread, i, row);
      for (int64_t k = 0; k < row_floats; ++k) out[at + k] = bfloat16_bits(row[k]);
    }
  });
}

}  // namespace

void run_grad_x(const char* op, const ConvArguments& a, const TileKernels& kernels, const Half* slope, const Half* residual,
                Half* out) {
  if (spread_is_less(a)) return run_spread(op, a, kernels, slope, residual, out);
  const Windows windows(a.image, a.taps, a.p, 0, true);
  const TileLayer layer(windows, Activation::none, a.c_in, {mirrored_weights(a, windows)}, nullptr);
  TileGatherData data = {};
  data.from.map = slope, data.residual = residual, data.out = out;
  run_gather(op, kernels, layer.gather(), data, a.batch * area_of(a));
}

}  // namespace vlae::masked_conv
