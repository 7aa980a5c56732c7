#include "plan.h"

#include <algorithm>

#include "../../checks.h"
#include "../../narrow.h"

namespace vlae::cuda::made_inverse {

namespace {

constexpr int64_t kMaxFours = (int64_t{1} << 31) - 1;  // reached by 32-bit offsets

// A unit of a hidden layer, or a dimension, whose `layer` is the layer of outputs.
struct Unit {
  int64_t degree;
  size_t layer;
  int32_t index;
};

// The units that are ever read, in the order of the walk. A dimension is known at the degree of its outputs, one below its own.
std::vector<Unit> in_order(const std::vector<std::vector<int64_t>>& degrees) {
  const size_t last = degrees.size() - 1, dim = degrees[0].size();
  std::vector<Unit> units;
  for (size_t layer = 1; layer < last; ++layer)
    for (size_t i = 0; i < degrees[layer].size(); ++i)
      if (degrees[layer][i] < static_cast<int64_t>(dim)) units.push_back({degrees[layer][i], layer, static_cast<int32_t>(i)});
  for (size_t i = 0; i < dim; ++i) units.push_back({degrees[0][i] - 1, last, static_cast<int32_t>(i)});
  std::stable_sort(units.begin(), units.end(),
                   [](const Unit& a, const Unit& b) { return a.degree != b.degree ? a.degree < b.degree : a.layer < b.layer; });
  return units;
}

class Builder {
 public:
  Builder(const char* op, const std::vector<std::vector<int64_t>>& degrees)
      : op_(op),
        outputs_(degrees.size() - 1),
        dim_(static_cast<int32_t>(degrees[0].size())),
        params_(static_cast<int32_t>(degrees[outputs_].size()) / dim_),
        starts_(outputs_),
        known_(outputs_),
        before_(outputs_),
        rows_(outputs_ + 1) {}

  MadePlan build(const std::vector<Unit>& units) {
    place(units);
    for (const Unit& unit : units) {
      if (!fits(unit)) close_block();
      block_.push_back(unit);
      rows_[unit.layer].push_back(unit.index);
      for (int32_t p = 1; p < params_ && is_dimension(unit); ++p) rows_[unit.layer].push_back(unit.index + p * dim_);
    }
    close_block();
    open_block();
    return std::move(plan_);
  }

 private:
  bool is_dimension(const Unit& unit) const { return unit.layer == outputs_; }
  size_t layer_known_by(const Unit& unit) const { return is_dimension(unit) ? 0 : unit.layer; }
  int32_t rows_of(const Unit& unit) const { return is_dimension(unit) ? params_ : 1; }

  // Numbers the known values: layer by layer, in the order in which they become known.
  void place(const std::vector<Unit>& units) {
    for (size_t layer = 0; layer < outputs_; ++layer) {
      starts_[layer] = static_cast<int32_t>(plan_.order.size());
      for (const Unit& unit : units)
        if (layer_known_by(unit) == layer) plan_.order.push_back(unit.index);
    }
  }

  static int32_t quads_for(size_t rows) { return static_cast<int32_t>((rows + kLaneRows - 1) / kLaneRows); }

  bool fits(const Unit& unit) const {
    int32_t quads = 0;
    for (size_t layer = 1; layer <= outputs_; ++layer)
      quads += quads_for(rows_[layer].size() + (layer == unit.layer ? usize(rows_of(unit)) : 0));
    return quads <= kLanes;
  }

  void grow(int64_t fours) {
    VLAE_CHECK(fours <= kMaxFours - plan_.fours, op_, "degrees", text("need at most ", kMaxFours, " fours of weights"),
               text(plan_.fours + fours));
    plan_.fours += fours;
  }

  void open_block() {
    plan_.blocks.push_back({static_cast<int32_t>(plan_.quads.size()), static_cast<int32_t>(plan_.events.size()),
                            static_cast<int32_t>(plan_.fours), 0});
  }

  void close_block() {
    open_block();
    std::vector<int32_t> first(outputs_ + 1), seen(outputs_ + 1);
    for (size_t layer = 1; layer <= outputs_; ++layer) {
      first[layer] = kLaneRows * (static_cast<int32_t>(plan_.quads.size()) - plan_.blocks.back().quad);
      add_quads(layer);
    }
    plan_.blocks.back().weights = static_cast<int32_t>(plan_.fours);
    for (size_t i = 0; i < block_.size();) i += add_event(i, first, seen);
    plan_.blocks.back().fours = static_cast<int32_t>(plan_.fours) - plan_.blocks.back().weights;
    plan_.event_fours = std::max<int64_t>(plan_.event_fours, plan_.blocks.back().fours);
    block_.clear();
    before_ = known_;
    for (std::vector<int32_t>& rows : rows_) rows.clear();
  }

  void add_quads(size_t layer) {
    for (size_t row = 0; row < rows_[layer].size(); row += kLaneRows) {
      Quad quad = {static_cast<int32_t>(plan_.fours), starts_[layer - 1], before_[layer - 1], static_cast<int32_t>(layer), {}};
      for (size_t r = 0; r < kLaneRows; ++r) quad.units[r] = row + r < rows_[layer].size() ? rows_[layer][row + r] : -1;
      plan_.quads.push_back(quad);
      grow(1 + quad.count);
    }
  }

  // Adds an event of the block's unit `at` and of as many behind it as there can be; returns how many.
  size_t add_event(size_t at, const std::vector<int32_t>& first, std::vector<int32_t>& seen) {
    const Unit& unit = block_[at];
    const size_t makes = layer_known_by(unit), feeds = makes + 1;
    const int32_t row = first[unit.layer] + seen[unit.layer], left_of_lane = kLaneRows - row % kLaneRows;
    size_t end = at + 1;
    while (!is_dimension(unit) && end < at + usize(left_of_lane) && end < block_.size() && block_[end].layer == unit.layer &&
           block_[end].degree == unit.degree)
      ++end;
    const int32_t count = static_cast<int32_t>(end - at);
    seen[unit.layer] += count * rows_of(unit);
    const int32_t next_row = first[feeds] + seen[feeds];
    const int32_t behind = first[feeds] / kLaneRows + quads_for(rows_[feeds].size());
    const int32_t fours = std::max(0, behind - next_row / kLaneRows);
    plan_.events.push_back({row, count, is_dimension(unit) ? unit.index : -1, starts_[makes] + known_[makes],
                            static_cast<int32_t>(plan_.fours), next_row, fours, static_cast<int32_t>(plan_.blocks.size()) - 1});
    known_[makes] += count;
    grow(int64_t{count} * fours);
    return end - at;
  }

  const char* op_;
  size_t outputs_;  // index of the layer of outputs
  int32_t dim_, params_;
  std::vector<int32_t> starts_;             // per layer: the place of its first known value
  std::vector<int32_t> known_, before_;     // per layer: how many values are known by now, and before the block
  std::vector<Unit> block_;                 // the units of the block that is being filled
  std::vector<std::vector<int32_t>> rows_;  // its rows, per layer
  MadePlan plan_ = {};
};

}  // namespace

MadePlan plan_made(const char* op, const std::vector<std::vector<int64_t>>& degrees) {
  return Builder(op, degrees).build(in_order(degrees));
}

}  // namespace vlae::cuda::made_inverse
