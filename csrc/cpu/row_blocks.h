// A layer over a block of rows: out = act( bias + cond + sum of products (* factor, + residual, after the activation) )
//
// A block is up to kMaxRows rows by two vectors of columns. Its rows are read in place, its weights stream once per block, and
// bias, condition, activation and residual are applied while it is in the nearest cache.
#pragma once

#include "activate.h"
#include "gemm_rows.h"
#include "layer.h"

namespace vlae::VLAE_ISA {

struct Product {
  const Run* runs;
  int n_runs;
  bool fresh;  // summed from 0, then added
  const float* const* rows;
};

// Where the rows of a block read and write; nullptr for what there is none of.
struct RowBlock {
  int count;
  int n_products;
  const Product* products;
  const float* const* cond;
  const float* const* residual;
  float* const* out;
  float* const* sigmoid;  // of the gate's second half, kept for its gradient
  const float* const* factor = nullptr;
  float* const* activated = nullptr;  // the output without its residual
};

// A vector of columns before the activation: the first channel it holds, and how many of its lanes are no padding.
struct Columns {
  int64_t first, count;
};

constexpr int64_t kLine = 16;  // floats of a cache line

inline Columns columns_of(const Layer& layer, int64_t vec) {
  const bool pair = is_pair(layer.activation);
  const int64_t channel = (pair ? vec / 2 : vec) * kLanes;
  return {pair && vec % 2 ? layer.out_channels + channel : channel, least(kLanes, layer.out_channels - channel)};
}

// Asks for the lines that finish() will write while there is a product to wait for.
template <typename Out>
void fetch_output(int rows, float* const* out, int64_t channel, int64_t count) {
  for (int r = 0; r < rows; ++r)
    for (int64_t c = 0; c < Out::floats(count); c += kLine) __builtin_prefetch(out[r] + Out::floats(channel) + c, 1);
}

// block = bias + cond
inline void start(const Layer& layer, int64_t first_vec, int vecs, const RowBlock& rows, float* block) {
  for (int v = 0; v < vecs; ++v) {
    const Vec bias = load(layer.bias + (first_vec + v) * kLanes);
    const Columns columns = columns_of(layer, first_vec + v);
    for (int r = 0; r < rows.count; ++r) {
      const Vec value = rows.cond ? bias + load_some(rows.cond[r] + columns.first, columns.count) : bias;
      store(block + r * kPanel + v * kLanes, value);
    }
  }
}

// Never inlined: one copy of the arithmetic, on whole vectors, whatever the block's shape. keep_sigmoid: the gate leaves its
// sigmoid in the place of its second half. Values: what the results are held in.
template <typename Values>
[[gnu::noinline]] void activate(Activation activation, bool keep_sigmoid, int rows, int vecs, float* block) {
  for (int r = 0; r < rows; ++r) {
    float* row = block + r * kPanel;
    if (activation == Activation::gate) {
      const Vec a = load(row), b = load(row + kLanes);
      store(row, Values::gate(a, b));
      if (keep_sigmoid) store(row + kLanes, sigmoid(b));
      continue;
    }
    if (activation == Activation::glu) {
      store(row, times_sigmoid(load(row), load(row + kLanes)));
      continue;
    }
    for (int v = 0; v < vecs; ++v, row += kLanes) store(row, apply_in_stage(activation, load(row)));
  }
}

// block *= factor, `count` channels from `channel` on. Never inlined: no product contracts with the sum that follows.
template <typename Values>
[[gnu::noinline]] void multiply(int rows, const float* const* factor, int64_t channel, int64_t count, float* block) {
  for (int r = 0; r < rows; ++r)
    for (int64_t c = 0; c < count; c += kLanes) {
      float* at = block + r * kPanel + c;
      store(at, load(at) * Values::load(factor[r], channel + c, least(kLanes, count - c)));
    }
}

// out = block (+ residual), `count` channels from `channel` on.
template <typename Values, typename Out>
void finish(int rows, const float* const* residual, float* const* out, int64_t channel, int64_t count, const float* block) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < count; c += kLanes) {
      const int64_t some = least(kLanes, count - c);
      const Vec value = load(block + r * kPanel + c);
      Out::store(out[r], channel + c, residual ? value + Values::load(residual[r], channel + c, some) : value, some);
    }
  }
}

template <typename Values, typename Out, int Vecs, int Panels>
void run_panels(const Layer& layer, int64_t first, const RowBlock& rows) {
  alignas(64) float block[Panels * kBlock];
  const int64_t width = is_pair(layer.activation) ? kLanes : kPanel;
  fetch_output<Out>(rows.count, rows.out, first * width, least(Panels * width, layer.out_channels - first * width));
  for (int p = 0; p < Panels; ++p) start(layer, (first + p) * kPanelVecs, Vecs, rows, block + p * kBlock);
  const int64_t stride = layer.depth * kPanel;
  for (int i = 0; i < rows.n_products; ++i) {
    const Product& product = rows.products[i];
    GemmTable<RowPointers<Values>, Vecs, Panels>::by_rows[rows.count - 1](
        {product.rows}, product.runs, product.n_runs, product.fresh, layer.weight + first * stride, stride, block);
  }
  for (int p = 0; p < Panels; ++p) {
    float* sums = block + p * kBlock;
    if (layer.activation != Activation::none) activate<Out>(layer.activation, rows.sigmoid, rows.count, Vecs, sums);
    const int64_t channel = (first + p) * width, count = least(width, layer.out_channels - channel);
    if (rows.factor) multiply<Values>(rows.count, rows.factor, channel, count, sums);
    finish<Values, Out>(rows.count, rows.residual, rows.out, channel, count, sums);
    if (rows.activated) finish<Values, Out>(rows.count, nullptr, rows.activated, channel, count, sums);
    if (rows.sigmoid) finish<Values, Out>(rows.count, nullptr, rows.sigmoid, channel, count, sums + kLanes);
  }
}

// The panels first .. last - 1 of the layer. Values: of rows, factor and residual; bias, cond and sums are float32.
template <typename Values = Float32, typename Out = Values>
void run_columns(const Layer& layer, int64_t first, int64_t last, const RowBlock& rows) {
  for (int64_t panel = first; panel < last;) {
    const int64_t vecs = least(layer.vecs, last * kPanelVecs) - panel * kPanelVecs;
    if (rows.count <= kFewRows && vecs >= 2 * kPanelVecs) {
      run_panels<Values, Out, kPanelVecs, 2>(layer, panel, rows);
      panel += 2;
    } else {
      (vecs >= kPanelVecs ? run_panels<Values, Out, kPanelVecs, 1> : run_panels<Values, Out, 1, 1>)(layer, panel, rows);
      ++panel;
    }
  }
}

}  // namespace vlae::VLAE_ISA
