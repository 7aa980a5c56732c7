#include "../masked_linear/run.h"
#include "../workers.h"
#include "run.h"
#include "tiles.h"

namespace vlae::made {

namespace {

using masked_linear::PanelProduct;
using masked_linear::set_panel;

// Takes a tile through all layers. A worker's memory: a panel, and two layers' activations of a tile where nobody asked for
// them.
class TileForward {
 public:
  TileForward(const Both& kernels, const Network& network, Panels& panels, const Forward& f, const Tiles& tiles)
      : kernels_(kernels), network_(network), panels_(panels), f_(f), tiles_(tiles), most_(network.most()) {
    for (int64_t l = 0; !network.is_last(l); ++l)
      if (!f.outs[usize(l)]) widest_ = std::max(widest_, padded_stride(network.layer(l).outputs));
  }

  int64_t floats() const { return most_ + 2 * widest_ * tiles_.most_rows(); }

  void operator()(int64_t tile, const Worker& worker) const {
    const int64_t first = tiles_.first(tile), rows = tiles_.rows(tile);
    float* const of_tile = worker.scratch + most_;
    Rows left = {const_cast<float*>(f_.x) + first * network_.layer(0).inputs, network_.layer(0).inputs, rows};
    for (int64_t l = 0; l < network_.size(); ++l) {
      const int64_t columns = network_.layer(l).outputs;
      float* kept = f_.outs[usize(l)];
      const Rows out = kept ? Rows{kept + first * columns, columns, rows}
                            : Rows{of_tile + l % 2 * widest_ * tiles_.most_rows(), padded_stride(columns), rows};
      multiply(l, left, out, worker);
      if (l == 0 && f_.cond)
        kernels_.own.add_condition({f_.cond + first * columns, out.data, out.stride, rows, columns, activation(0)});
      left = out;
    }
  }

 private:
  // Rows of units, `stride` floats apart.
  struct Rows {
    float* data;
    int64_t stride, count;
  };

  Activation activation(int64_t l) const { return network_.is_last(l) ? Activation::none : f_.activation; }

  // Threads begin at different panels: each finds packed what the others began with.
  void multiply(int64_t l, const Rows& left, const Rows& out, const Worker& worker) const {
    const int64_t count = network_.count(l), begin = count * worker.index / tiles_.workers();
    for (int64_t i = 0; i < count; ++i) {
      const int64_t index = (begin + i) % count;
      PanelProduct product = {};
      product.left = left.data;
      product.left_stride = left.stride;
      product.rows = left.count;
      set_panel(product, network_.panel(l, index), panels_.packed(l, index, worker.scratch), kernels_.linear.lanes);
      product.out = out.data;
      product.out_stride = out.stride;
      product.bias = f_.biases[usize(l)];
      product.activation = l == 0 && f_.cond ? Activation::none : activation(l);
      kernels_.linear.multiply(product);
    }
  }

  const Both& kernels_;
  const Network& network_;
  Panels& panels_;
  const Forward& f_;
  const Tiles& tiles_;
  const int64_t most_;  // floats of a packed panel
  int64_t widest_ = 0;  // floats of a row of activations that nobody asked for
};

// Layer by layer, each for the whole batch: threads share its panels. The bits are those of tiles.
void run_layers(const char* op, const Both& kernels, const Network& network, const Forward& f) {
  int64_t widest = 0;
  for (int64_t l = 0; !network.is_last(l); ++l)
    if (!f.outs[usize(l)]) widest = std::max(widest, network.layer(l).outputs);
  static thread_local KeptFloats kept(kMostKept);
  const FloatsOfCall memory(op, kept, 2 * widest * f.batch);
  const float* left = f.x;
  for (int64_t l = 0; l < network.size(); ++l) {
    const LinearLayer& layer = network.layer(l);
    const Activation activation = network.is_last(l) ? Activation::none : f.activation;
    const bool waits = l == 0 && f.cond;
    float* out = f.outs[usize(l)] ? f.outs[usize(l)] : memory.data + l % 2 * widest * f.batch;
    masked_linear::run_forward(op, kernels.linear, layer, network.structure(l),
                               {left, f.biases[usize(l)], f.batch, waits ? Activation::none : activation, out});
    if (waits) kernels.own.add_condition({f.cond, out, layer.outputs, f.batch, layer.outputs, activation});
    left = out;
  }
}

}  // namespace

void run_forward(const char* op, const Both& kernels, const Network& network, const Forward& f) {
  const Tiles tiles(f.batch, static_cast<double>(f.batch) * network.work());
  if (!tiles.enough() || network.floats() > kMostPacked) return run_layers(op, kernels, network, f);
  static thread_local KeptFloats kept(kMostKept);
  const bool shared = tiles.count() > 1;
  const FloatsOfCall memory(op, kept, shared ? network.floats() : 0);
  Panels panels(kernels.linear, network, Side::outputs, shared ? memory.data : nullptr);
  const TileForward run(kernels, network, panels, f, tiles);
  run_tasks(op, {tiles.count(), tiles.workers(), run.floats()}, run);
}

}  // namespace vlae::made
