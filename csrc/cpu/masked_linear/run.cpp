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

constexpr int64_t kZeroFloats = 1 << 15;

enum class Kind { forward, grad_x, grad_weight, zeros };

// Rows first .. last - 1 of a panel of a product; of zeros, dead runs, and no panel.
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

  // Dead runs, in shares of about kZeroFloats.
  void add_zeros(const std::vector<DeadRun>& dead) {
    int64_t floats = 0, first = 0;
    for (int64_t i = 0; i < static_cast<int64_t>(dead.size()); ++i) {
      floats += dead[usize(i)].count;
      if (floats < kZeroFloats && i + 1 < static_cast<int64_t>(dead.size())) continue;
      units_.push_back({Kind::zeros, nullptr, first, i + 1, 0});
      floats = 0;
      first = i + 1;
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
  kernels.multiply(product_of(kernels, unit, b.g, b.g_stride, packed, b.grad_x, layer.inputs));
}

// The product's rows are the outputs of the panel's runs, columns of g; the inner dimension is the batch.
void run_grad_weight(const Kernels& kernels, const LinearLayer& layer, const LinearBackward& b, const Unit& unit,
                     float* packed) {
  const Panel panel = unit.panel->view();
  const Run batch = {0, 0, b.batch};
  const Runs all = {&batch, 1, b.batch}, none = {};
  PanelProduct product = {};
  product.left_step = b.g_stride;
  product.of_both = packed;
  product.of_more = packed + kernels.lanes;  // the second vector of rows of two
  product.more_step = kPanelVecs * kernels.lanes;
  product.out_stride = layer.inputs;
  product.layer = &layer;
  kernels.pack_rows(b.x, layer.inputs, b.batch, panel, packed);
  const auto multiply = [&](int64_t first, int64_t last) {
    product.left = b.g + first;
    product.rows = last - first;
    product.out = b.grad_weight + first * layer.inputs;
    product.first_row = first;
    kernels.multiply(product);
  };
  product.panel = {{panel.columns[0], panel.columns[1]}, all, none};
  for_rows(panel.both, unit, multiply);
  product.panel = {{{0, 0}, panel.columns[1]}, none, all};
  for_rows(panel.more, unit, multiply);
}

// Along the rows of W: columns of panels, one panel after the other, would fetch each of its pages for a line or two.
void run_zeros(const std::vector<DeadRun>& dead, const Unit& unit, int64_t inputs, float* grad_weight) {
  for (int64_t i = unit.first; i < unit.last; ++i)
    std::fill_n(grad_weight + dead[usize(i)].row * inputs + dead[usize(i)].first, dead[usize(i)].count, 0.0f);
}

int64_t most_length(const std::vector<LivePanel>& panels) {
  int64_t most = 0;
  for (const LivePanel& panel : panels) most = std::max(most, panel.view().both.length + panel.view().more.length);
  return most;
}

}  // namespace

void run_forward(const char* op, const Kernels& kernels, const LinearLayer& layer, const Structure& structure,
                 const LinearForward& f) {
  const int64_t width = kPanelVecs * kernels.lanes;
  Units units;
  units.add(Kind::forward, f.batch, structure.panels);
  units.deal(op, static_cast<double>(f.batch), most_length(structure.panels) * width, [&](const Unit& unit, float* packed) {
    kernels.pack_outputs(layer, unit.panel->view(), packed);
    PanelProduct product = product_of(kernels, unit, f.x, layer.inputs, packed, f.y, layer.outputs);
    product.to_columns = layer.out_order;
    product.bias = f.bias;
    product.activation = f.activation;
    kernels.multiply(product);
  });
}

// Each thread takes columns that lie side by side: long stretches of rows are read fastest.
void run_slopes(const Kernels& kernels, const Slopes& slopes) {
  const double threads = std::min<double>(torch::stable::get_num_threads(), static_cast<double>(slopes.batch * slopes.outputs) / kThreadWork + 1);
  const int64_t vectors = (slopes.outputs + kernels.lanes - 1) / kernels.lanes;
  const int64_t shared = (vectors + static_cast<int64_t>(threads) - 1) / static_cast<int64_t>(threads);
  const int64_t width = std::clamp<int64_t>(shared, 1, kSlopeVecs) * kernels.lanes;
  torch::stable::parallel_for(0, (slopes.outputs + width - 1) / width, threads > 1 ? 1 : slopes.outputs + 1, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) kernels.slopes(slopes, {i * width, std::min(width, slopes.outputs - i * width)});
  });
}

void run_backward(const char* op, const Kernels& kernels, const LinearLayer& layer, const Structure& structure,
                  const LinearBackward& b) {
  const std::vector<LivePanel>& panels = structure.panels;
  Units units;
  if (b.grad_x) units.add(Kind::grad_x, b.batch, panels);
  if (b.grad_weight) units.add(Kind::grad_weight, layer.outputs, panels);
  if (b.grad_weight) units.add_zeros(structure.dead);
  const int64_t floats = std::max(most_length(panels), b.batch) * kPanelVecs * kernels.lanes;
  units.deal(op, static_cast<double>(b.batch), floats, [&](const Unit& unit, float* packed) {
    switch (unit.kind) {
      case Kind::grad_x: return run_grad_x(kernels, layer, b, unit, packed);
      case Kind::grad_weight: return run_grad_weight(kernels, layer, b, unit, packed);
      case Kind::zeros: return run_zeros(structure.dead, unit, layer.inputs, b.grad_weight);
      case Kind::forward: break;  // not of a backward
    }
  });
}

}  // namespace vlae::masked_linear
