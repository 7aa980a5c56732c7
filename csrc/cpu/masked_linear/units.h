// The products of a masked linear layer, cut into units that threads take.
#pragma once

#include <algorithm>
#include <vector>

#include "../../narrow.h"
#include "../workers.h"
#include "live.h"

namespace vlae::masked_linear {

constexpr double kThreadWork = 3e5;  // multiply-adds below which another thread costs more than it brings
constexpr int64_t kUnitsPerThread = 4;
constexpr int64_t kUnitRows = 56;         // fewer rows are not worth packing a panel once more
constexpr int64_t kZeroFloats = 1 << 15;  // dead entries of a unit
constexpr int64_t kNearFloats = 3 << 15;  // that stay in the second cache beside half as many others
constexpr int64_t kFarFloats = 1 << 19;   // more than these it cannot hold
constexpr int64_t kSlabRows = 42;         // a multiple of the rows of a block on every instruction set

enum class Kind { forward, grad_x, grad_weight, zeros };

// Rows first .. last - 1 of a group of panels of a product; of zeros, dead runs, and no panel.
struct Unit {
  Kind kind;
  const LivePanel* panels;
  int64_t count, first, last;
  double work;  // products of a row of the inner dimension or of the panels
};

inline double work_of(const LivePanel& live) {
  const Panel panel = live.view();
  const int64_t second = panel.columns[1].count, both = panel.columns[0].count + second;
  return static_cast<double>(panel.both.length * both + panel.more.length * second);
}

class Units {
 public:
  // Every panel of a product, at most `group` of them in a unit, with a packed panel of at most `floats`. The panels outlive
  // the units.
  void add(Kind kind, int64_t rows, const std::vector<LivePanel>& panels, int64_t floats, int64_t group) {
    const int64_t threads = torch::stable::get_num_threads(), wanted = threads > 1 ? kUnitsPerThread * threads : 1;
    const int64_t count = static_cast<int64_t>(panels.size());
    const int64_t size = std::max<int64_t>(1, std::min(group, count / wanted)), groups = (count + size - 1) / size;
    const int64_t missing = (wanted + groups - 1) / std::max<int64_t>(groups, 1);
    const int64_t chunks = std::max<int64_t>(1, std::min(missing, rows / kUnitRows));
    scratch_ = std::max(scratch_, size * floats);
    for (int64_t p = 0; p < count; p += size) {
      const int64_t own = std::min(size, count - p);
      double work = 0;
      for (int64_t i = p; i < p + own; ++i) work += work_of(panels[usize(i)]) / static_cast<double>(chunks);
      for (int64_t c = 0; c < chunks; ++c)
        units_.push_back({kind, &panels[usize(p)], own, rows * c / chunks, rows * (c + 1) / chunks, work});
    }
  }

  // Dead runs, in shares of about kZeroFloats.
  void add_zeros(const std::vector<DeadRun>& dead) {
    int64_t floats = 0, first = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(dead.size()); ++i) {
      floats += dead[usize(i)].count;
      if (floats < kZeroFloats && i + 1 < static_cast<int64_t>(dead.size())) continue;
      units_.push_back({Kind::zeros, nullptr, 0, first, i + 1, 0});
      floats = 0;
      first = i + 1;
    }
  }

  // The largest first: the last ones fill up what the threads have left.
  template <typename Do>
  void deal(const char* op, double work_scale, const Do& run_unit) {
    std::stable_sort(units_.begin(), units_.end(), [](const Unit& a, const Unit& b) { return a.work > b.work; });
    double work = 0;
    for (const Unit& unit : units_) work += unit.work * work_scale;
    const Tasks tasks = {static_cast<int64_t>(units_.size()), 1 + static_cast<int64_t>(work / kThreadWork), scratch_};
    run_tasks(op, tasks, [&](int64_t unit, const Worker& worker) { run_unit(units_[usize(unit)], worker.scratch); });
  }

 private:
  std::vector<Unit> units_;
  int64_t scratch_ = 0;
};

// The panels of `floats` that a unit takes: rows that the second cache cannot hold are read once for a group of panels, which
// it can, and not once for each.
inline int64_t group_of(int64_t rows, int64_t inner, int64_t floats) {
  return rows * inner <= kFarFloats ? 1 : kNearFloats / std::max<int64_t>(floats, 1);
}

// body(panel's number, first, last) for the rows of a unit: where it has several panels, for so many rows at a time as stay
// near while all of them are multiplied.
template <typename Body>
void for_slabs(const Unit& unit, int64_t inner, const Body& body) {
  const int64_t near = std::max<int64_t>(1, kNearFloats / 2 / std::max<int64_t>(inner, 1) / kSlabRows) * kSlabRows;
  const int64_t rows = unit.count > 1 ? near : unit.last - unit.first;
  for (int64_t first = unit.first; first < unit.last; first += rows)
    for (int64_t p = 0; p < unit.count; ++p) body(p, first, std::min(first + rows, unit.last));
}

}  // namespace vlae::masked_linear
