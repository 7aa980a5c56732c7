#include "tile_sums.h"

namespace vlae::masked_conv {
namespace {

constexpr int64_t kChunkPixels = 2048;                // at least, or summing the parts takes time
constexpr int64_t kPartialFloats = int64_t{4} << 20;  // of all chunks of a weight gradient

}  // namespace

ColumnSums::ColumnSums(const char* op, const ConvArguments& a)
    : op_(op), a_(a), parts_((area_of(a) + kChunkPixels - 1) / kChunkPixels) {}

void ColumnSums::run(const TileKernels& kernels, const TileSlope& slope, bool wanted) {
  if (wanted) sums_.resize(usize(a_.batch * parts_ * a_.p));
  const int64_t area = area_of(a_), tasks = a_.batch * parts_;
  run_tasks(op_, {tasks, tasks, 1}, [&](int64_t task, const Worker&) {
    TileSlope own = slope;
    own.sums = wanted ? sums_.data() + task * a_.p : nullptr;
    const int64_t first = task / parts_ * area, part = task % parts_;
    kernels.slope(own, first + area * part / parts_, first + area * (part + 1) / parts_);
  });
}

void ColumnSums::finish(float* bias, float* cond) const {
  std::vector<double> all(usize(a_.p));
  for (int64_t n = 0; n < a_.batch; ++n)
    for (int64_t column = 0; column < a_.p; ++column) {
      double image = 0;
      for (int64_t part = 0; part < parts_; ++part) image += sums_[usize((n * parts_ + part) * a_.p + column)];
      all[usize(column)] += image;
      if (cond) cond[n * a_.p + column] = static_cast<float>(image);
    }
  for (int64_t column = 0; column < a_.p && bias; ++column) bias[column] = static_cast<float>(all[usize(column)]);
}

namespace {

int64_t chunks_of(int64_t pixels, int64_t floats) {
  return std::max<int64_t>(1, std::min(pixels / kChunkPixels, kPartialFloats / floats));
}

}  // namespace

OuterSums::OuterSums(const char* op, const ConvArguments& a, const Windows& windows)
    : op_(op),
      a_(a),
      outer_{windows.window(), a.p},
      tiles_(windows.window().depth / kTileSide),
      floats_(std::max<int64_t>(whole_blocks(a.p) * windows.window().depth, 1)),
      chunks_(chunks_of(a.batch * area_of(a), floats_)),
      step_((a.batch * area_of(a) + chunks_ - 1) / chunks_),
      sums_(chunks_ * floats_) {
  VLAE_CHECK(sums_, op, "memory", text("hold ", 4 * chunks_ * floats_, " bytes more"), "none");
}

void OuterSums::run(const TileKernels& kernels, const WindowData& from, const Half* slope) {
  const int64_t pixels = a_.batch * area_of(a_);
  run_pixels(op_, pixels, step_, outer_halves(outer_), [&](int64_t first, int64_t last, Half* scratch) {
    kernels.outer(outer_, {from, slope, sums_.data() + first / step_ * floats_}, first, last, scratch);
  });
  for (int64_t chunk = 1; chunk < chunks_; ++chunk)
    for (int64_t i = 0; i < floats_; ++i) sums_.data()[i] += sums_.data()[chunk * floats_ + i];
}

void OuterSums::finish(const TileWeights& part, int64_t first, float* to) const {
  for (size_t i = 0; i < part.from.size(); ++i)
    for (size_t column = 0; column < part.base.size(); ++column) {
      const int64_t at = part.from[i] + part.base[column];
      if (!part.live || part.live[at]) to[at] = sum(static_cast<int64_t>(column), first + static_cast<int64_t>(i));
    }
}

float OuterSums::sum(int64_t column, int64_t k) const {
  const int64_t tile = column / kTileSide * tiles_ + k / kTileSide;
  return sums_.data()[tile * kTileFloats + column % kTileSide * kTileSide + k % kTileSide];
}

}  // namespace vlae::masked_conv
