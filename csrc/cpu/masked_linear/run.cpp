#include "run.h"

#include <algorithm>
#include <deque>
#include <vector>

#include "../../narrow.h"
#include "../workers.h"
#include "live.h"

namespace vlae::masked_linear {

namespace {

constexpr double kThreadWork = 3e5;  // multiply-adds below which another thread costs more than it brings
constexpr int64_t kUnitsPerThread = 4;
constexpr int64_t kUnitRows = 56;  // fewer rows are not worth packing a panel once more

enum class Kind { forward, grad_x, grad_weight };

// Rows first .. last - 1 of a panel of a product.
struct Unit {
  Kind kind;
  Columns columns;
  const std::vector<Run>* runs;  // of the inner dimension; for grad_weight: the live ones of all its rows
  int64_t first, last;
  double work;
};

class Units {
 public:
  // A product with `rows` rows and `columns` columns; runs_of(panel) are its runs, `inner` 0 if these give the depth.
  template <typename RunsOf>
  void add(Kind kind, int64_t rows, int64_t columns, int64_t width, const RunsOf& runs_of) {
    const int64_t panels = (columns + width - 1) / width;
    const int64_t wanted = (kUnitsPerThread * torch::stable::get_num_threads() + panels - 1) / std::max<int64_t>(panels, 1);
    const int64_t chunks = std::max<int64_t>(1, std::min(wanted, rows / kUnitRows));
    for (int64_t p = 0; p < panels; ++p) {
      const Columns panel = {p * width, std::min(width, columns - p * width)};
      runs_.push_back(runs_of(panel));
      const double work = static_cast<double>(total_length(runs_.back()) * panel.count);
      for (int64_t c = 0; c < chunks; ++c)
        units_.push_back(
            {kind, panel, &runs_.back(), rows * c / chunks, rows * (c + 1) / chunks, work / static_cast<double>(chunks)});
    }
  }

  // The largest first: the last ones fill up what the threads have left.
  template <typename Do>
  void deal(const char* op, double work_scale, int64_t scratch_floats, const Do& run_unit) {
    std::stable_sort(units_.begin(), units_.end(), [](const Unit& a, const Unit& b) { return a.work > b.work; });
    double work = 0;
    for (const Unit& unit : units_) work += unit.work * work_scale;
    const int64_t count = static_cast<int64_t>(units_.size());
    const Tasks tasks = {count, 1 + static_cast<int64_t>(work / kThreadWork), scratch_floats};
    run_tasks(op, tasks, [&](int64_t unit, const Worker& worker) { run_unit(units_[usize(unit)], worker.scratch); });
  }

 private:
  std::vector<Unit> units_;
  std::deque<std::vector<Run>> runs_;  // a deque: the units point at its elements while it grows
};

Runs runs_of(const std::vector<Run>& runs) { return {runs.data(), static_cast<int>(runs.size())}; }

// The unit's rows of left times its panel, into the same rows of out.
PanelProduct product_of(const Unit& unit, const float* left, int64_t left_stride, const float* panel, float* out,
                        int64_t out_stride) {
  PanelProduct product = {};
  product.left = left + unit.first * left_stride;
  product.left_stride = left_stride;
  product.rows = unit.last - unit.first;
  product.runs = runs_of(*unit.runs);
  product.panel = panel;
  product.columns = unit.columns;
  product.out = out + unit.first * out_stride;
  product.out_stride = out_stride;
  return product;
}

void run_grad_x(const Kernels& kernels, const LinearLayer& layer, const LinearBackward& b, const Unit& unit, float* panel) {
  kernels.pack_inputs(layer, unit.columns, runs_of(*unit.runs), panel);
  kernels.multiply(product_of(unit, b.g, layer.outputs, panel, b.grad_x, layer.inputs));
}

// Rows without a live entry are only zeroed.
void run_grad_weight(const Kernels& kernels, const LinearLayer& layer, const LinearBackward& b, const Unit& unit,
                     float* panel) {
  const Run all = {0, 0, b.batch};
  PanelProduct product = {};
  product.left_stride = b.transposed_stride;
  product.runs = {&all, 1};
  product.panel = panel;
  product.columns = unit.columns;
  product.out_stride = layer.inputs;
  product.layer = &layer;
  kernels.pack_rows(b.x, layer.inputs, b.batch, unit.columns, panel);
  const auto zero = [&](int64_t first, int64_t last) {
    for (int64_t o = first; o < last; ++o)
      std::fill_n(b.grad_weight + o * layer.inputs + unit.columns.first, unit.columns.count, 0.0f);
  };
  int64_t done = unit.first;
  for (const Run& run : *unit.runs) {
    const int64_t first = std::max(run.offset, unit.first), last = std::min(run.offset + run.length, unit.last);
    if (first >= last) continue;
    zero(done, first);
    product.left = b.g_transposed + first * b.transposed_stride;
    product.rows = last - first;
    product.out = b.grad_weight + first * layer.inputs;
    product.first_row = first;
    kernels.multiply(product);
    done = last;
  }
  zero(done, unit.last);
}

}  // namespace

void run_forward(const char* op, const Kernels& kernels, const LinearLayer& layer, const LinearForward& f) {
  const LiveRuns live(layer);
  const int64_t width = kPanelVecs * kernels.lanes;
  Units units;
  units.add(Kind::forward, f.batch, layer.outputs, width, [&](const Columns& c) { return live.of_outputs(c); });
  units.deal(op, static_cast<double>(f.batch), layer.inputs * width, [&](const Unit& unit, float* panel) {
    kernels.pack_outputs(layer, unit.columns, runs_of(*unit.runs), panel);
    PanelProduct product = product_of(unit, f.x, layer.inputs, panel, f.y, layer.outputs);
    product.to_columns = layer.out_order;
    product.bias = f.bias;
    product.activation = f.activation;
    kernels.multiply(product);
  });
}

void run_slopes(const Kernels& kernels, const Slopes& slopes) {
  const int64_t vectors = (slopes.outputs + kernels.lanes - 1) / kernels.lanes;
  const int64_t grain = static_cast<int64_t>(kThreadWork / 10) / std::max<int64_t>(1, slopes.batch * kernels.lanes) + 1;
  torch::stable::parallel_for(0, vectors, grain, [&](int64_t first, int64_t last) {
    for (int64_t v = first; v < last; ++v)
      kernels.slopes(slopes, {v * kernels.lanes, std::min<int64_t>(kernels.lanes, slopes.outputs - v * kernels.lanes)});
  });
}

void run_backward(const char* op, const Kernels& kernels, const LinearLayer& layer, const LinearBackward& b) {
  const LiveRuns live(layer);
  const int64_t width = kPanelVecs * kernels.lanes;
  const auto runs = [&](const Columns& c) { return live.of_inputs(c); };
  Units units;
  if (b.grad_x) units.add(Kind::grad_x, b.batch, layer.inputs, width, runs);
  if (b.grad_weight) units.add(Kind::grad_weight, layer.outputs, layer.inputs, width, runs);
  units.deal(op, static_cast<double>(b.batch), std::max(layer.outputs, b.batch) * width, [&](const Unit& unit, float* panel) {
    (unit.kind == Kind::grad_x ? run_grad_x : run_grad_weight)(kernels, layer, b, unit, panel);
  });
}

}  // namespace vlae::masked_linear
