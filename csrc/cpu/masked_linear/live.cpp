#include "live.h"

#include <algorithm>

#include "../../narrow.h"

namespace vlae::masked_linear {

namespace {

constexpr int64_t kGap = 8;  // so few dead entries are cheaper multiplied by zeros than stepped over

std::vector<Run> one_run(int64_t first, int64_t last) {
  if (first == last) return {};
  return {{first, 0, last - first}};
}

template <typename IsLive>
std::vector<Run> find_runs(int64_t size, const IsLive& is_live) {
  std::vector<Run> runs;
  int64_t row = 0;
  for (int64_t k = 0; k < size; ++k) {
    if (!is_live(k)) continue;
    const int64_t end = runs.empty() ? 0 : runs.back().offset + runs.back().length;
    if (runs.empty() || k - end > kGap) runs.push_back({k, row, 0});
    row += k + 1 - runs.back().offset - runs.back().length;
    runs.back().length = k + 1 - runs.back().offset;
  }
  return runs;
}

}  // namespace

LiveRuns::LiveRuns(const LinearLayer& layer)
    : layer_(layer),
      sorted_inputs_(layer.adjacency == nullptr && std::is_sorted(layer.in_degrees, layer.in_degrees + layer.inputs)),
      sorted_outputs_(layer.adjacency == nullptr && std::is_sorted(layer.out_degrees, layer.out_degrees + layer.outputs)) {}

std::vector<Run> LiveRuns::of_outputs(const Columns& outputs) const {
  if (layer_.adjacency != nullptr) {
    std::vector<uint8_t> any(usize(layer_.inputs), 0);
    for (int64_t o = outputs.first; o < outputs.first + outputs.count; ++o)
      for (int64_t i = 0; i < layer_.inputs; ++i) any[usize(i)] |= layer_.adjacency[o * layer_.inputs + i];
    return find_runs(layer_.inputs, [&](int64_t i) { return any[usize(i)] != 0; });
  }
  const int32_t *out = layer_.out_degrees + outputs.first, *in = layer_.in_degrees;
  const int32_t most = *std::max_element(out, out + outputs.count);
  if (sorted_inputs_) return one_run(0, std::upper_bound(in, in + layer_.inputs, most) - in);
  return find_runs(layer_.inputs, [&](int64_t i) { return in[i] <= most; });
}

std::vector<Run> LiveRuns::of_inputs(const Columns& inputs) const {
  if (layer_.adjacency != nullptr)
    return find_runs(layer_.outputs, [&](int64_t o) {
      const bool* row = layer_.adjacency + o * layer_.inputs + inputs.first;
      return std::find(row, row + inputs.count, true) != row + inputs.count;
    });
  const int32_t *in = layer_.in_degrees + inputs.first, *out = layer_.out_degrees;
  const int32_t least = *std::min_element(in, in + inputs.count);
  if (sorted_outputs_) return one_run(std::lower_bound(out, out + layer_.outputs, least) - out, layer_.outputs);
  return find_runs(layer_.outputs, [&](int64_t o) { return out[o] >= least; });
}

int64_t total_length(const std::vector<Run>& runs) {
  int64_t sum = 0;
  for (const Run& run : runs) sum += run.length;
  return sum;
}

}  // namespace vlae::masked_linear
