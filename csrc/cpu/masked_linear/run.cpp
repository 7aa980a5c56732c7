#include "run.h"

#include <algorithm>

#include "units.h"

namespace vlae::masked_linear {

namespace {

// body(first, last) for the rows of the runs that are the unit's.
template <typename Body>
void for_rows(const Runs& runs, const Unit& unit, const Body& body) {
  for (const Run* run = runs.data; run != runs.data + runs.count; ++run) {
    const int64_t first = std::max(run->offset, unit.first), last = std::min(run->offset + run->length, unit.last);
    if (first < last) body(first, last);
  }
}

int64_t most_floats(const std::vector<LivePanel>& panels, int64_t lanes) {
  int64_t most = 0;
  for (const LivePanel& panel : panels) most = std::max(most, panel.view().both.length + panel.view().more.length);
  return most * kPanelVecs * lanes;
}

// A product of `inner` numbers a row with the unit's panels, packed by pack(panel, to) one behind the other, `floats` apart.
template <typename Pack>
void run_panels(const Kernels& kernels, const Unit& unit, int64_t inner, int64_t floats, float* packed,
                const PanelProduct& whole, const Pack& pack) {
  for (int64_t p = 0; p < unit.count; ++p) pack(unit.panels[p].view(), packed + p * floats);
  for_slabs(unit, inner, [&](int64_t p, int64_t first, int64_t last) {
    PanelProduct product = whole;
    product.left += first * product.left_stride;
    product.rows = last - first;
    set_panel(product, unit.panels[p].view(), packed + p * floats, kernels.lanes);
    product.out += first * product.out_stride;
    kernels.multiply(product);
  });
}

// The product's rows are the outputs of the panel's runs, columns of g; the inner dimension is the batch.
void run_grad_weight(const Kernels& kernels, const LinearLayer& layer, const LinearBackward& b, const Unit& unit,
                     float* packed) {
  const Panel panel = unit.panels->view();
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

}  // namespace

void run_forward(const char* op, const Kernels& kernels, const LinearLayer& layer, const Structure& structure,
                 const LinearForward& f) {
  const int64_t floats = most_floats(structure.panels, kernels.lanes);
  PanelProduct product = {};
  product.left = f.x;
  product.left_stride = layer.inputs;
  product.out = f.y;
  product.out_stride = layer.outputs;
  product.to_columns = layer.out_order;
  product.bias = f.bias;
  product.activation = f.activation;
  Units units;
  units.add(Kind::forward, f.batch, structure.panels, floats, group_of(f.batch, layer.inputs, floats));
  units.deal(op, static_cast<double>(f.batch), [&](const Unit& unit, float* packed) {
    run_panels(kernels, unit, layer.inputs, floats, packed, product,
               [&](const Panel& panel, float* to) { kernels.pack_outputs(layer, panel, to); });
  });
}

// Each thread takes columns that lie side by side: long stretches of rows are read fastest.
void run_slopes(const Kernels& kernels, const Slopes& slopes) {
  const int64_t threads =
      std::min<int64_t>(torch::stable::get_num_threads(),
                        1 + static_cast<int64_t>(static_cast<double>(slopes.batch * slopes.outputs) / kThreadWork));
  const int64_t vectors = (slopes.outputs + kernels.lanes - 1) / kernels.lanes;
  const int64_t width = std::clamp<int64_t>((vectors + threads - 1) / threads, 1, kSlopeVecs) * kernels.lanes;
  const int64_t count = (slopes.outputs + width - 1) / width;
  torch::stable::parallel_for(0, count, threads > 1 ? 1 : count, [&](int64_t first, int64_t last) {
    for (int64_t i = first; i < last; ++i) kernels.slopes(slopes, {i * width, std::min(width, slopes.outputs - i * width)});
  });
}

void run_backward(const char* op, const Kernels& kernels, const LinearLayer& layer, const Structure& structure,
                  const LinearBackward& b) {
  const int64_t floats = most_floats(structure.panels, kernels.lanes), of_batch = b.batch * kPanelVecs * kernels.lanes;
  PanelProduct grad_x = {};
  grad_x.left = b.g;
  grad_x.left_stride = b.g_stride;
  grad_x.out = b.grad_x;
  grad_x.out_stride = layer.inputs;
  Units units;
  if (b.grad_x) units.add(Kind::grad_x, b.batch, structure.panels, floats, group_of(b.batch, layer.outputs, floats));
  if (b.grad_weight) units.add(Kind::grad_weight, layer.outputs, structure.panels, of_batch, 1);
  if (b.grad_weight) units.add_zeros(structure.dead);
  units.deal(op, static_cast<double>(b.batch), [&](const Unit& unit, float* packed) {
    switch (unit.kind) {
      case Kind::grad_x:
        return run_panels(kernels, unit, layer.outputs, floats, packed, grad_x,
                          [&](const Panel& panel, float* to) { kernels.pack_inputs(layer, panel, to); });
      case Kind::grad_weight: return run_grad_weight(kernels, layer, b, unit, packed);
      case Kind::zeros: return run_zeros(structure.dead, unit, layer.inputs, b.grad_weight);
      case Kind::forward: break;  // not of a backward
    }
  });
}

}  // namespace vlae::masked_linear
