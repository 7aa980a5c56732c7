// A layer over a block of rows: out = act( bias + cond + sum of products (+ residual, after the activation) )
//
// A block is up to kMaxRows rows by two vectors of columns. Its rows are read in place, its weights stream once per block, and
// bias, condition, activation and residual are applied while it is in the nearest cache.
#pragma once

#include "gemm_rows.h"
#include "layer.h"

namespace vlae::VLAE_ISA {

struct Product {
  const Run* runs;
  int n_runs;
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
};

// A vector of columns before the activation: the first channel it holds, and how many of its lanes are no padding.
struct Columns {
  int64_t first, count;
};

inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

inline Columns columns_of(const Layer& layer, int64_t vec) {
  const bool gate = layer.activation == Activation::gate;
  const int64_t channel = (gate ? vec / 2 : vec) * kLanes;
  return {gate && vec % 2 ? layer.out_channels + channel : channel, least(kLanes, layer.out_channels - channel)};
}

// `count` < kLanes floats in pieces of powers of two: a handful of moves instead of a loop.
inline void copy_some(float* to, const float* from, int64_t count) {
#pragma GCC unroll 4
  for (int piece = kLanes / 2; piece > 0; piece /= 2) {
    if (!(count & piece)) continue;
    for (int i = 0; i < piece; ++i) to[i] = from[i];
    to += piece;
    from += piece;
  }
}

inline Vec load_some(const float* p, int64_t count) {
  if (count == kLanes) return load(p);
  float lanes[kLanes] = {};
  copy_some(lanes, p, count);
  return load(lanes);
}

inline void store_some(float* p, Vec value, int64_t count) {
  if (count == kLanes) return store(p, value);
  float lanes[kLanes];
  store(lanes, value);
  copy_some(p, lanes, count);
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
// sigmoid in the place of its second half.
[[gnu::noinline]] inline void activate(Activation activation, bool keep_sigmoid, int rows, int vecs, float* block) {
  for (int r = 0; r < rows; ++r) {
    float* row = block + r * kPanel;
    if (activation == Activation::gate) {
      const Vec a = load(row), b = load(row + kLanes);
      store(row, gate(a, b));
      if (keep_sigmoid) store(row + kLanes, sigmoid(b));
      continue;
    }
    for (int v = 0; v < vecs; ++v, row += kLanes)
      store(row, activation == Activation::relu ? relu(load(row)) : elu(load(row)));
  }
}

// out = block (+ residual), `count` channels from `channel` on.
inline void finish(int rows, const float* const* residual, float* const* out, int64_t channel, int64_t count, const float* block) {
  for (int r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < count; c += kLanes) {
      const int64_t some = least(kLanes, count - c);
      const Vec value = load(block + r * kPanel + c);
      store_some(out[r] + channel + c, residual ? value + load_some(residual[r] + channel + c, some) : value, some);
    }
  }
}

template <int Vecs, int Panels>
void run_panels(const Layer& layer, int64_t first, const RowBlock& rows) {
  alignas(64) float block[Panels * kBlock];
  for (int p = 0; p < Panels; ++p) start(layer, (first + p) * kPanelVecs, Vecs, rows, block + p * kBlock);
  const int64_t stride = layer.depth * kPanel;
  for (int i = 0; i < rows.n_products; ++i) {
    const Product& product = rows.products[i];
    GemmTable<RowPointers, Vecs, Panels>::by_rows[rows.count - 1]({product.rows}, product.runs, product.n_runs,
                                                                  layer.weight + first * stride, stride, block);
  }
  const int64_t width = layer.activation == Activation::gate ? kLanes : kPanel;
  for (int p = 0; p < Panels; ++p) {
    float* sums = block + p * kBlock;
    if (layer.activation != Activation::none) activate(layer.activation, rows.sigmoid, rows.count, Vecs, sums);
    const int64_t channel = (first + p) * width, count = least(width, layer.out_channels - channel);
    finish(rows.count, rows.residual, rows.out, channel, count, sums);
    if (rows.sigmoid) finish(rows.count, nullptr, rows.sigmoid, channel, count, sums + kLanes);
  }
}

// The panels first .. last - 1 of the layer.
inline void run_columns(const Layer& layer, int64_t first, int64_t last, const RowBlock& rows) {
  for (int64_t panel = first; panel < last;) {
    const int64_t vecs = least(layer.vecs, last * kPanelVecs) - panel * kPanelVecs;
    if (rows.count <= kFewRows && vecs >= 2 * kPanelVecs) {
      run_panels<kPanelVecs, 2>(layer, panel, rows);
      panel += 2;
    } else {
      (vecs >= kPanelVecs ? run_panels<kPanelVecs, 1> : run_panels<1, 1>)(layer, panel, rows);
      ++panel;
    }
  }
}

}  // namespace vlae::VLAE_ISA
