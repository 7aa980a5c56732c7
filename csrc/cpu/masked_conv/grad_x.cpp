#include "grad_x.h"

#include <algorithm>

namespace vlae::masked_conv {
namespace {

// One tap of one output row: out[j, c] += from[j, c], from's pixels being `step` floats apart.
void add_tap(const float* from, int64_t step, int64_t pixels, int64_t channels, float* out) {
  if (channels == 1) {
    for (int64_t j = 0; j < pixels; ++j) out[j] += from[j * step];
    return;
  }
  for (int64_t j = 0; j < pixels; ++j)
    for (int64_t c = 0; c < channels; ++c) out[j * channels + c] += from[j * step + c];
}

// In vectors of columns times products, and additions weighed as a product each: a rough count, far from a draw where it
// matters.
bool spread_is_less(const ConvArguments& a, int64_t depth, int64_t lanes) {
  const int64_t taps = static_cast<int64_t>(a.taps.list.size()), columns = taps * a.c_in;
  return 2 * a.c_in <= lanes && depth * (taps - (columns + lanes - 1) / lanes) > 2 * columns;
}

}  // namespace

GradX::GradX(const ConvArguments& a, const Slope& slope, const Kernels& kernels, int64_t band_rows)
    : a_(a), slope_(slope), kernels_(kernels) {
  const int64_t columns = static_cast<int64_t>(a.taps.list.size()) * a.c_in;
  spread_ = spread_is_less(a, slope.planes * slope.pixel, kernels.lanes);
  products_ =
      spread_ ? spread_products(a.taps, a.c_in, slope, kernels.lanes) : grad_products(a.taps, a.c_in, slope, kernels.lanes);
  gather_ = gather_of(products_, {Activation::none, spread_ ? columns : a.c_in, 0, 0, nullptr, nullptr}, a.image, slope.pixel,
                      (a.image.width + slope.reach.left + slope.reach.right) * slope.pixel);
  packed_ = pack({a.weight, a.live}, products_, gather_.layer, nullptr, kernels.lanes);
  if (spread_) scratch_floats_ = (band_rows + slope.reach.above + slope.reach.below) * a.image.width * columns;
}

void GradX::run(const Band& band, const float* planes, float* scratch, const float* residual, float* out) const {
  if (spread_) return run_spread(band, planes, scratch, residual, out);
  const float* source = planes + slope_.reach.above * gather_.row + slope_.reach.left * gather_.pixel;
  const int64_t first = band.first * a_.image.width * a_.c_in;
  GatherData data = {source, nullptr, 0, out + first, nullptr};
  if (residual) data.residual = residual + first;
  kernels_.gather(gather_, band, data);
}

void GradX::run_spread(const Band& band, const float* planes, float* scratch, const float* residual, float* out) const {
  const int64_t width = a_.image.width, step = gather_.layer.out_channels;
  const int64_t top = std::max<int64_t>(0, band.first - slope_.reach.above);
  const int64_t end = std::min(a_.image.height, band.first + band.rows + slope_.reach.below);
  const float* source = planes + (top - band.first + slope_.reach.above) * gather_.row + slope_.reach.left * gather_.pixel;
  kernels_.gather(gather_, {top, end - top}, {source, nullptr, 0, scratch, nullptr});
  for (int64_t i = band.first; i < band.first + band.rows; ++i) {
    float* row = out + i * width * a_.c_in;
    if (residual)
      std::copy_n(residual + i * width * a_.c_in, width * a_.c_in, row);
    else
      std::fill(row, row + width * a_.c_in, 0.0f);
    for (size_t t = 0; t < a_.taps.list.size(); ++t) {  // pixel (i - dy, j - dx) read (i, j)
      const Tap tap = a_.taps.list[t];
      const int64_t from = i - tap.dy, j = std::max<int64_t>(0, tap.dx), last = std::min(width, width + tap.dx);
      if (from < top || from >= end || j >= last) continue;
      const float* added = scratch + ((from - top) * width + j - tap.dx) * step + static_cast<int64_t>(t) * a_.c_in;
      add_tap(added, step, last - j, a_.c_in, row + j * a_.c_in);
    }
  }
}

}  // namespace vlae::masked_conv
