#include "live.h"

#include <algorithm>
#include <utility>

#include "../../narrow.h"

namespace vlae::masked_linear {

namespace {

constexpr int64_t kGap = 8;  // so few dead entries are cheaper multiplied by zeros than stepped over

int64_t total_length(const std::vector<Run>& runs) { return runs.empty() ? 0 : runs.back().weight + runs.back().length; }

Runs view_of(const std::vector<Run>& runs) {
  return {runs.data(), narrow<int>(static_cast<int64_t>(runs.size())), total_length(runs)};
}

Columns vector_at(int64_t vec, int64_t lanes, int64_t columns) { return {vec * lanes, std::min(lanes, columns - vec * lanes)}; }

// The entries of an inner dimension by rank: one is alive for every column of at least its rank. The rank of an input is its
// degree, that of an output, which the inputs of at most its degree reach, is minus its degree.
class Ranks {
 public:
  static constexpr int64_t kBelow = -(int64_t{1} << 32);  // any rank

  Ranks(const int32_t* degrees, int64_t count, int64_t sign) : degrees_(degrees), sign_(sign) {
    for (int64_t i = 0; i < count; ++i)
      if (i == 0 || degrees[i] < degrees[i - 1]) starts_.push_back(i);
    starts_.push_back(count);
  }

  // Those above `above`, up to `most`. Degrees come in a few ascending pieces (order.h): it is a run of each.
  std::vector<Run> between(int64_t above, int64_t most) const {
    std::vector<Run> runs;
    for (size_t piece = 0; piece + 1 < starts_.size(); ++piece) {
      const int32_t *first = degrees_ + starts_[piece], *last = degrees_ + starts_[piece + 1];
      const int32_t* from = sign_ > 0 ? std::upper_bound(first, last, above) : std::lower_bound(first, last, -most);
      const int32_t* to = sign_ > 0 ? std::upper_bound(first, last, most) : std::lower_bound(first, last, -above);
      if (from < to) runs.push_back({from - degrees_, total_length(runs), to - from});
    }
    return runs;
  }

 private:
  const int32_t* degrees_;
  int64_t sign_;
  std::vector<int64_t> starts_;
};

// Neighbours by rank share a panel; where their number is odd the first one is alone.
std::vector<LivePanel> by_rank(const Ranks& inner, const int32_t* degrees, int64_t size, int64_t sign, int64_t lanes) {
  const int64_t count = (size + lanes - 1) / lanes;
  std::vector<std::pair<int64_t, Columns>> vectors;  // with the rank up to which any of its columns reads
  for (int64_t v = 0; v < count; ++v) {
    const Columns columns = vector_at(v, lanes, size);
    const auto [least, most] = std::minmax_element(degrees + columns.first, degrees + columns.first + columns.count);
    vectors.emplace_back(sign > 0 ? *most : -int64_t{*least}, columns);
  }
  std::stable_sort(vectors.begin(), vectors.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<LivePanel> panels;
  for (int64_t v = -(count % 2); v < count; v += 2) {
    const auto [shared, first] = v < 0 ? std::pair{Ranks::kBelow, Columns{0, 0}} : vectors[usize(v)];
    const auto& [most, second] = vectors[usize(v + 1)];
    panels.push_back({{first, second}, inner.between(Ranks::kBelow, shared), inner.between(shared, most)});
  }
  return panels;
}

template <typename IsLive>
std::vector<Run> find_runs(int64_t size, const IsLive& is_live) {
  std::vector<Run> runs;
  for (int64_t k = 0; k < size; ++k) {
    if (!is_live(k)) continue;
    const int64_t end = runs.empty() ? 0 : runs.back().offset + runs.back().length;
    if (runs.empty() || k - end > kGap) runs.push_back({k, total_length(runs), 0});
    runs.back().length = k + 1 - runs.back().offset;
  }
  return runs;
}

// Neighbours share a panel and all that any of them needs.
template <typename AnyLive>
std::vector<LivePanel> by_place(int64_t inner, int64_t columns, int64_t lanes, const AnyLive& any_live) {
  const int64_t count = (columns + lanes - 1) / lanes;
  std::vector<LivePanel> panels;
  for (int64_t v = -(count % 2); v < count; v += 2) {
    const Columns last = vector_at(v + 1, lanes, columns);
    const Columns all = v < 0 ? last : Columns{v * lanes, lanes + last.count};
    std::vector<Run> runs = find_runs(inner, any_live(all));
    LivePanel panel = {{{all.first, all.count - last.count}, last}, {}, {}};
    (v < 0 ? panel.more : panel.both) = std::move(runs);
    panels.push_back(std::move(panel));
  }
  return panels;
}

}  // namespace

Panel LivePanel::view() const { return {{columns[0], columns[1]}, view_of(both), view_of(more)}; }

std::vector<LivePanel> panels_of_outputs(const LinearLayer& layer, int64_t lanes) {
  if (layer.adjacency == nullptr)
    return by_rank(Ranks(layer.in_degrees, layer.inputs, 1), layer.out_degrees, layer.outputs, 1, lanes);
  return by_place(layer.inputs, layer.outputs, lanes, [&](const Columns& outputs) {
    std::vector<uint8_t> any(usize(layer.inputs), 0);
    for (int64_t o = outputs.first; o < outputs.first + outputs.count; ++o)
      for (int64_t i = 0; i < layer.inputs; ++i) any[usize(i)] |= layer.adjacency[o * layer.inputs + i];
    return [any = std::move(any)](int64_t i) { return any[usize(i)] != 0; };
  });
}

std::vector<LivePanel> panels_of_inputs(const LinearLayer& layer, int64_t lanes) {
  if (layer.adjacency == nullptr)
    return by_rank(Ranks(layer.out_degrees, layer.outputs, -1), layer.in_degrees, layer.inputs, -1, lanes);
  return by_place(layer.outputs, layer.inputs, lanes, [&](const Columns& inputs) {
    return [&layer, inputs](int64_t o) {
      const bool* row = layer.adjacency + o * layer.inputs + inputs.first;
      return std::find(row, row + inputs.count, true) != row + inputs.count;
    };
  });
}

std::vector<DeadRun> dead_runs(const std::vector<LivePanel>& panels, const LinearLayer& layer, int64_t lanes) {
  const int64_t vectors = (layer.inputs + lanes - 1) / lanes;
  std::vector<uint8_t> covered(usize(layer.outputs * vectors), 0);
  const auto cover = [&](const std::vector<Run>& runs, const Columns& columns) {
    for (const Run& run : runs)
      for (int64_t o = run.offset; columns.count > 0 && o < run.offset + run.length; ++o)
        covered[usize(o * vectors + columns.first / lanes)] = 1;
  };
  for (const LivePanel& panel : panels) {
    for (const Columns& columns : panel.columns) cover(panel.both, columns);
    cover(panel.more, panel.columns[1]);
  }
  std::vector<DeadRun> dead;
  for (int64_t o = 0; o < layer.outputs; ++o)
    for (int64_t v = 0; v < vectors; ++v) {
      if (covered[usize(o * vectors + v)]) continue;
      const Columns columns = vector_at(v, lanes, layer.inputs);
      if (dead.empty() || dead.back().row != o || dead.back().first + dead.back().count != columns.first)
        dead.push_back({o, columns.first, 0});
      dead.back().count += columns.count;
    }
  return dead;
}

}  // namespace vlae::masked_linear
