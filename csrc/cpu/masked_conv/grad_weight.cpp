#include "grad_weight.h"

#include <cstring>

#include <torch/csrc/stable/ops.h>

#include "../../narrow.h"
#include "../panels.h"

namespace vlae::masked_conv {

GradWeight::GradWeight(const ConvArguments& a, const Slope& slope, const Kernels& kernels)
    : a_(a), slope_(slope), kernels_(kernels) {
  const int64_t row = (a.image.width + a.taps.reach.left + a.taps.reach.right) * a.c_in;
  products_ = forward_products(a.taps, a.c_in, a.p, row);
  for (size_t r = 0; r < products_.runs.size(); ++r)
    stretches_.push_back({products_.runs[r].offset, products_.runs[r].weight, products_.runs[r].length, products_.dy[r]});
  const int64_t depth = static_cast<int64_t>(products_.from.size());
  outer_ = {stretches_.data(), static_cast<int>(stretches_.size()), depth, a.c_in, row, slope};
  floats_ = slope.planes * depth * kPanelVecs * kernels.lanes;
}

void GradWeight::clear(int64_t chunk) const { std::memset(partial(chunk), 0, usize(floats_) * sizeof(float)); }

void GradWeight::add(const Band& band, int64_t chunk, const float* x, const float* planes, Run* runs) const {
  kernels_.outer(outer_, band, {x, planes, runs, partial(chunk)});
}

void GradWeight::finish(float* weight) const {
  torch::stable::parallel_for(0, floats_, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t chunk = 1; chunk < chunks_; ++chunk) {
      const float* from = partial(chunk);
      float* to = partial(0);
      for (int64_t i = begin; i < end; ++i) to[i] += from[i];
    }
  });
  const int64_t lanes = kernels_.lanes, plane_lanes = slope_.vecs * lanes, step = kPanelVecs * lanes;
  for (int64_t i = 0; i < slope_.planes * plane_lanes; ++i) {
    const int64_t column = column_of(a_.activation, a_.c, i / lanes, i % lanes, lanes);
    if (column < 0) continue;
    const float* from = partial(0) + i / plane_lanes * outer_.depth * step + i % plane_lanes;
    for (int64_t k = 0; k < outer_.depth; ++k, from += step) {
      const int64_t at = products_.base[usize(column)] + products_.from[usize(k)];
      if (!a_.live || a_.live[at]) weight[at] = *from;
    }
  }
}

}  // namespace vlae::masked_conv
