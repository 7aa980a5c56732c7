#include "tile_grad_x.h"

#include "../halves.h"

namespace vlae::masked_conv {
namespace {

constexpr int64_t kBandFloats = 48 << 10;  // of what a band's pixels add

// In blocks of products times columns.
bool spread_is_less(const ConvArguments& a) {
  const int64_t taps = static_cast<int64_t>(a.taps.list.size());
  const int64_t gathered = whole_blocks(taps * a.p) * whole_blocks(a.c_in),
                spread = whole_blocks(a.p) * whole_blocks(taps * a.c_in);
  return 2 * a.c_in <= kTileSide && 2 * spread < gathered;
}

// Of one image row: what the pixels that read it add. spread: [pixel][tap][channel], from the image's row `top` on.
void add_row(const ConvArguments& a, const float* spread, int64_t top, int64_t i, float* row) {
  const int64_t width = a.image.width, taps = static_cast<int64_t>(a.taps.list.size()), step = taps * a.c_in;
  for (int64_t t = 0; t < taps; ++t) {  // pixel (i - dy, j - dx) read (i, j)
    const Tap tap = a.taps.list[usize(t)];
    const int64_t from = i - tap.dy, first = std::max<int64_t>(0, tap.dx), last = std::min(width, width + tap.dx);
    if (from < 0 || from >= a.image.height) continue;
    const float* added = spread + ((from - top) * width + first - tap.dx) * step + t * a.c_in;
    for (int64_t j = first; j < last; ++j, added += step)
      for (int64_t c = 0; c < a.c_in; ++c) row[j * a.c_in + c] += added[c];
  }
}

// Bands of rows, each with the rows beyond it whose pixels read it.
void run_spread(const char* op, const ConvArguments& a, const TileKernels& kernels, const Half* slope, const Half* residual,
                Half* out) {
  const int64_t width = a.image.width, columns = static_cast<int64_t>(a.taps.list.size()) * a.c_in;
  const int64_t row_values = width * a.c_in, halo = a.taps.reach.above + a.taps.reach.below;
  const Windows windows(a.image, own_pixel(), a.p, 0);
  const TileLayer layer(windows, Activation::none, columns, {spread_weights(a)}, nullptr);
  const Bands bands = cut_bands(a.batch, a.image, width * std::max<int64_t>(columns, 1), halo, kBandFloats);
  const int64_t block_floats = kTileBlock * windows.window().depth / 2, band_floats = (bands.rows + halo) * width * columns;
  const Tasks tasks = {bands.count(), bands.count(), block_floats + band_floats + row_values};
  run_tasks(op, tasks, [&](int64_t task, const Worker& worker) {
    float *spread = worker.scratch + block_floats, *row = spread + band_floats;
    const Band band = band_at(bands, a.image, task);
    const int64_t top = std::max<int64_t>(0, band.first - a.taps.reach.below);
    const int64_t end = std::min(a.image.height, band.first + band.rows + a.taps.reach.above);
    const int64_t image = task / bands.per_image * area_of(a);
    TileGatherData data = {};
    data.from.map = slope + (image + top * width) * a.p, data.sums = spread;
    kernels.gather(layer.gather(), data, 0, (end - top) * width, reinterpret_cast<Half*>(worker.scratch));
    for (int64_t i = band.first; i < band.first + band.rows; ++i) {
      const int64_t at = (image + i * width) * a.c_in;
      for (int64_t k = 0; k < row_values; ++k) row[k] = residual ? bfloat16_value(residual[at + k]) : 0.0f;
      add_row(a, spread, top, i, row);
      for (int64_t k = 0; k < row_values; ++k) out[at + k] = bfloat16_bits(row[k]);
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
  run_gather(op, a, kernels, layer.gather(), data);
}

}  // namespace vlae::masked_conv
