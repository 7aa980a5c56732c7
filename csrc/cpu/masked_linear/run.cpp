#include "run.h"

#include <algorithm>
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
  const LivePanel* panel;
  int64_t first, last;
  double work;
};

class Units {
 public:
  // Every panel of a product, of `rows` rows. The panels outlive the units.
  void add(Kind kind, int64_t rows, const std::vector<LivePanel>& panels) {
    const int64_t count = static_cast<int64_t>(panels.size());
    const int64_t wanted = (kUnitsPerThread * torch::stable::get_num_threads() + count - 1) / std::max<int64_t>(count, 1);
    const int64_t chunks = std::max<int64_t>(1, std::min(wanted, rows / kUnitRows));
    for (const LivePanel& live : panels) {
      const Panel panel = live.view();
      const int64_t second = panel.columns[1].count, both = panel.columns[0].count + second;
      const double work = static_cast<double>(panel.both.length * both + panel.more.length * second);
      for (int64_t c = 0; c < chunks; ++c)
        units_.push_back({kind, &live, rows * c / chunks, rows * (c + 1) / chunks, work / static_cast<double>(chunks)});
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
};

// body(first, last) for the rows of the runs that are the unit's.
template <typename Body>
void for_rows(const Runs& runs, const Unit& unit, const Body& body) {
  for (const Run* run = runs.data; run != runs.data + runs.count; ++run) {
    const int64_t first = std::max(run->offset, unit.first), last = std::min(run->offset + run->length, unit.last);
    if (first < last) body(first, last);
  }
}

// The unit's rows of left times its packed panel, into the same rows of out.
PanelProduct product_of(const Kernels& kernels, const Unit& unit, const float* left, int64_t left_stride, const float* packed,
                        float* out, int64_t out_stride) {
  PanelProduct product = {};
  product.left = left + unit.first * left_stride;
  product.left_stride = left_stride;
  product.rows = unit.last - unit.first;
  product.panel = unit.panel->view();
  product.of_both = packed;
  product.of_more = packed + product.panel.both.length * kPanelVecs * kernels.lanes;
  product.more_step = kernels.lanes;
  product.out = out + unit.first * out_stride;
  product.out_stride = out_stride;
  return product;
}

void run_grad_x(const Kernels& kernels, const LinearLayer& layer, const LinearBackward& b, const Unit& unit, float* packed) {
  kernels.pack_inputs(layer, unit.panel->view(), packed);
  kernels.multiply(product_of(kernels, unit, b.g, layer.outputs, packed, b.grad_x, layer.inputs));
}

// The product's rows are the outputs of the panel's runs; the inner dimension is the batch. Other rows are zeroed.
void run_grad_weight(const Kernels& kernels, const LinearLayer& layer, const LinearBackward& b, const Unit& unit,
                     float* packed) {
  const Panel panel = unit.panel->view();
  const Run batch = {0, 0, b.batch};
  const Runs all = {&batch, 1, b.batch}, none = {};
  PanelProduct product = {};
  product.left_stride = b.transposed_stride;
  product.of_both = packed;
  product.of_more = packed + kernels.lanes;  // the second vector of rows of two
  product.more_step = kPanelVecs * kernels.lanes;
  product.out_stride = layer.inputs;
  product.layer = &layer;
  kernels.pack_rows(b.x, layer.inputs, b.batch, panel, packed);
  const auto zero = [&](int64_t first, int64_t last) {
    for (int64_t o = first; o < last; ++o)
      for (const Columns& columns : panel.columns)
        std::fill_n(b.grad_weight + o * layer.inputs + columns.first, columns.count, 0.0f);
  };
  const auto multiply = [&](int64_t first, int64_t last) {
    product.left = b.g_transposed + first * b.transposed_stride;
    product.rows = last - first;
    product.out = b.grad_weight + first * layer.inputs;
    product.first_row = first;
    kernels.multiply(product);
  };
  int64_t done = unit.first;
  product.panel = {{panel.columns[0], panel.columns[1]}, all, none};
  for_rows(panel.both, unit, [&](int64_t first, int64_t last) {
    zero(done, first);
    multiply(first, last);
    done = last;
  });
  zero(done, unit.last);
  product.panel = {{{0, 0}, panel.columns[1]}, none, all};
  for_rows(panel.more, unit, multiply);
}

int64_t most_length(const std::vector<LivePanel>& panels) {
  int64_t most = 0;
  for (const LivePanel& panel : panels) most = std::max(most, panel.view().both.length + panel.view().more.length);
  return most;
}

}  // namespace

void run_forward(const char* op, const Kernels& kernels, const LinearLayer& layer, const LinearForward& f) {
  const std::vector<LivePanel> panels = panels_of_outputs(layer, kernels.lanes);
  const int64_t width = kPanelVecs * kernels.lanes;
  Units units;
  units.add(Kind::forward, f.batch, panels);
  units.deal(op, static_cast<double>(f.batch), most_length(panels) * width, [&](const Unit& unit, float* packed) {
    kernels.pack_outputs(layer, unit.panel->view(), packed);
    PanelProduct product = product_of(kernels, unit, f.x, layer.inputs, packed, f.y, layer.outputs);
    product.to_columns = layer.out_order;
    product.bias = f.bias;
    product.activation = f.activation;
    kernels.multiply(product);
  });
}

void run_slopes(const Kernels& kernels, const Slopes& slopes) {
  const int64_t width = kSlopeVecs * kernels.lanes, count = (slopes.outputs + width - 1) / width;
  const int64_t grain = static_cast<int64_t>(kThreadWork / 10) / std::max<int64_t>(1, slopes.batch * width) + 1;
  torch::stable::parallel_for(0, count, grain, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) kernels.slopes(slopes, {i * width, std::min(width, slopes.outputs - i * width)});
  });
}

void run_backward(const char* op, const Kernels& kernels, const LinearLayer& layer, const LinearBackward& b) {
  const std::vector<LivePanel> panels = panels_of_inputs(layer, kernels.lanes);
  Units units;
  if (b.grad_x) units.add(Kind::grad_x, b.batch, panels);
  if (b.grad_weight) units.add(Kind::grad_weight, layer.outputs, panels);
  const int64_t floats = std::max(most_length(panels), b.batch) * kPanelVecs * kernels.lanes;
  units.deal(op, static_cast<double>(b.batch), floats, [&](const Unit& unit, float* packed) {
    (unit.kind == Kind::grad_x ? run_grad_x : run_grad_weight)(kernels, layer, b, unit, packed);
  });
}

}  // namespace vlae::masked_linear
