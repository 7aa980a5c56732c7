#include "../masked_linear/run.h"
#include "../workers.h"
#include "run.h"
#include "tiles.h"

namespace vlae::made {

namespace {

using masked_linear::kSlopeVecs;
using masked_linear::PanelProduct;
using masked_linear::set_panel;
using masked_linear::Slopes;

// Rows of units, `stride` floats apart.
struct Rows {
  float* data;
  int64_t stride;

  Rows from(int64_t row) const { return {data + row * stride, stride}; }
};

// What the tiles leave for the whole batch: g of every layer, and its sums over groups of samples, [groups, outputs].
struct OfBatch {
  std::vector<Rows> g;  // no data: it is wanted within a tile alone
  std::vector<float*> sums;
};

// The gradient of a tile's outputs goes back through all layers.
class TileBackward {
 public:
  TileBackward(const Both& kernels, const Network& network, Panels& panels, const Backward& b, const Tiles& tiles,
               const OfBatch& of_batch)
      : kernels_(kernels),
        network_(network),
        panels_(panels),
        b_(b),
        tiles_(tiles),
        of_batch_(of_batch),
        most_(network.most()) {
    for (int64_t l = b.first_layer(); l < network.size(); ++l) widest_ = std::max(widest_, network.layer(l).outputs);
  }

  int64_t floats() const { return most_ + 2 * widest_ * tiles_.most_rows(); }

  void operator()(int64_t tile, const Worker& worker) const {
    const int64_t first = tiles_.first(tile), rows = tiles_.rows(tile), first_layer = b_.first_layer();
    float* const of_tile[2] = {worker.scratch + most_, worker.scratch + most_ + widest_ * tiles_.most_rows()};
    const float* grad = b_.grad + first * network_.layer(network_.size() - 1).outputs;
    for (int64_t l = network_.size() - 1; l >= first_layer; --l) {
      const LinearLayer& layer = network_.layer(l);
      const bool ends = l == first_layer && !(l == 0 && b_.grad_x);
      const Rows kept = of_batch_.g[usize(l)], g = kept.data ? kept.from(first) : Rows{of_tile[l % 2], layer.outputs};
      slopes(l, grad, first, rows, g, kept.data || !ends);
      if (ends) break;
      float* before = l > 0 ? of_tile[(l + 1) % 2] : b_.grad_x + first * layer.inputs;
      multiply(l, g, rows, before, worker);
      grad = before;
    }
  }

 private:
  // From the gradient of a layer's outputs to g, that of its pre-activations.
  // Sums are those of as many rows as `slopes` of a whole layer adds before Kahan's sum takes them.
  void slopes(int64_t l, const float* grad, int64_t first, int64_t rows, const Rows& g, bool wanted) const {
    const int64_t outputs = network_.layer(l).outputs, width = kSlopeVecs * kernels_.linear.lanes;
    float* const sums = of_batch_.sums[usize(l)];
    const bool writes = wanted && !(network_.is_last(l) && g.data == grad);  // of the outputs it is the gradient itself
    if (!writes && !sums) return;
    const int64_t group = kernels_.linear.lanes;
    for (int64_t r = 0; r < rows; r += group) {
      Slopes s = {};
      s.grad = grad + r * outputs;
      s.batch = std::min(group, rows - r);
      s.outputs = outputs;
      s.activation = network_.is_last(l) ? Activation::none : b_.activation;
      if (!network_.is_last(l)) s.y = b_.hidden[usize(l)] + (first + r) * outputs;
      if (writes) s.g = g.data + r * g.stride;
      s.g_stride = g.stride;
      if (sums) s.sums = sums + (first + r) / group * outputs;
      for (int64_t c = 0; c < outputs; c += width) kernels_.linear.slopes(s, {c, std::min(width, outputs - c)});
    }
  }

  void multiply(int64_t l, const Rows& g, int64_t rows, float* out, const Worker& worker) const {
    const LinearLayer& layer = network_.layer(l);
    const int64_t count = network_.count(l), begin = count * worker.index / tiles_.workers();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t index = (begin + i) % count;
      PanelProduct product = {};
      product.left = g.data;
      product.left_stride = g.stride;
      product.rows = rows;
      set_panel(product, network_.panel(l, index), panels_.packed(l, index, worker.scratch), kernels_.linear.lanes);
      product.out = out;
      product.out_stride = layer.inputs;
      kernels_.linear.multiply(product);
    }
  }

  const Both& kernels_;
  const Network& network_;
  Panels& panels_;
  const Backward& b_;
  const Tiles& tiles_;
  const OfBatch& of_batch_;
  const int64_t most_;  // floats of a packed panel
  int64_t widest_ = 0;
};

// The sums of groups of samples, added as `slopes` of a layer adds them (Kahan): the same bits.
void add_sums(const float* sums, int64_t groups, int64_t columns, float* total) {
  constexpr int64_t kColumns = 256;
  torch::stable::parallel_for(0, (columns + kColumns - 1) / kColumns, 1 + 64 / groups, [&](int64_t from, int64_t to) {
    for (int64_t first = from * kColumns; first < std::min(columns, to * kColumns); first += kColumns) {
      const int64_t count = std::min(kColumns, columns - first);
      float sum[kColumns] = {}, lost[kColumns] = {};
      for (int64_t group = 0; group < groups; ++group)
        for (int64_t c = 0; c < count; ++c) {
          const float term = sums[group * columns + first + c] - lost[c], next = sum[c] + term;
          lost[c] = (next - sum[c]) - term;
          sum[c] = next;
        }
      for (int64_t c = 0; c < count; ++c) total[first + c] = sum[c];
    }
  });
}

// Layer by layer, each for the whole batch: threads share its panels. The bits are those of tiles.
void run_layers(const char* op, const Both& kernels, const Network& network, const Backward& b) {
  const int64_t first_layer = b.first_layer();
  int64_t widest = 0;
  for (int64_t l = first_layer; l < network.size(); ++l) widest = std::max(widest, padded_stride(network.layer(l).outputs));
  static thread_local KeptFloats kept(kMostKept);
  const FloatsOfCall memory(op, kept, 2 * widest * b.batch);
  const float* grad = b.grad;
  for (int64_t l = network.size() - 1; l >= first_layer; --l) {
    const LinearLayer& layer = network.layer(l);
    const bool last = network.is_last(l), is_cond = l == 0 && b.grad_cond, ends = l == first_layer && !(l == 0 && b.grad_x);
    const bool writes = is_cond || (!last && (!ends || b.grad_weights[usize(l)]));
    float* before = ends ? nullptr : l > 0 ? memory.data : b.grad_x;
    Slopes s = {};
    s.grad = grad;
    s.y = last ? nullptr : b.hidden[usize(l)];
    s.batch = b.batch;
    s.outputs = layer.outputs;
    s.activation = last ? Activation::none : b.activation;
    s.g = is_cond ? b.grad_cond : writes ? memory.data + widest * b.batch : nullptr;
    s.g_stride = is_cond || !writes ? layer.outputs : padded_stride(layer.outputs);
    s.sums = b.grad_biases[usize(l)];
    if (s.g || s.sums) masked_linear::run_slopes(kernels.linear, s);
    if (layer.inputs > 0 && (before || b.grad_weights[usize(l)]))
      masked_linear::run_backward(
          op, kernels.linear, layer, network.structure(l),
          {l ? b.hidden[usize(l - 1)] : b.x, writes ? s.g : grad, b.batch, s.g_stride, before, b.grad_weights[usize(l)]});
    grad = before;
  }
}

}  // namespace

int64_t Backward::first_layer() const {
  if (grad_x || grad_cond) return 0;
  for (size_t l = 0; l < grad_weights.size(); ++l)
    if (grad_weights[l] || grad_biases[l]) return static_cast<int64_t>(l);
  return static_cast<int64_t>(grad_weights.size());
}

void run_backward(const char* op, const Both& kernels, const Network& network, const Backward& b) {
  const int64_t first_layer = b.first_layer(), lanes = kernels.linear.lanes, groups = (b.batch + lanes - 1) / lanes;
  const Tiles tiles(b.batch, static_cast<double>(b.batch) * network.work());
  if (!tiles.enough() || network.floats() > kMostPacked) return run_layers(op, kernels, network, b);
  const bool shared = tiles.count() > 1;
  OfBatch of_batch = {std::vector<Rows>(usize(network.size())), std::vector<float*>(usize(network.size()))};
  // Says where g and the sums lie; returns how many floats the call takes.
  const auto place = [&](float* memory) {
    int64_t at = shared ? network.floats() : 0;
    for (int64_t l = first_layer; l < network.size(); ++l) {
      const int64_t outputs = network.layer(l).outputs;
      Rows& g = of_batch.g[usize(l)];
      if (l == 0 && b.grad_cond) {
        g = {b.grad_cond, outputs};
      } else if (network.is_last(l)) {
        g = {const_cast<float*>(b.grad), outputs};  // nothing is written there
      } else if (b.grad_weights[usize(l)]) {
        g = {memory ? memory + at : nullptr, padded_stride(outputs)};
        at += b.batch * g.stride;
      }
      if (!b.grad_biases[usize(l)]) continue;
      of_batch.sums[usize(l)] = memory ? memory + at : nullptr;
      at += padded_stride(outputs * groups);
    }
    return at;
  };
  static thread_local KeptFloats kept(kMostKept);
  const FloatsOfCall memory(op, kept, place(nullptr));
  place(memory.data);
  Panels panels(kernels.linear, network, Side::inputs, shared ? memory.data : nullptr);
  const TileBackward run(kernels, network, panels, b, tiles, of_batch);
  run_tasks(op, {tiles.count(), tiles.workers(), run.floats()}, run);
  for (int64_t l = first_layer; l < network.size(); ++l) {
    const LinearLayer& layer = network.layer(l);
    if (float* total = b.grad_biases[usize(l)]) add_sums(of_batch.sums[usize(l)], groups, layer.outputs, total);
    if (!b.grad_weights[usize(l)] || layer.inputs == 0) continue;
    const float* x = l ? b.hidden[usize(l - 1)] : b.x;
    const Rows& g = of_batch.g[usize(l)];
    masked_linear::run_backward(op, kernels.linear, layer, network.structure(l),
                                {x, g.data, b.batch, g.stride, nullptr, b.grad_weights[usize(l)]});
  }
}

}  // namespace vlae::made
