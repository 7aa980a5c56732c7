// Panels of a masked linear layer, packed and multiplied, for one instruction set.
//
// Columns of a product go in panels of two vectors, its rows in blocks of up to kMaxRows: a block is 14 x 32 floats in
// registers under AVX-512, 6 x 16 under AVX2. Dead weights are zeroed while packing, in registers, so that no masked copy of W
// is ever made and bias, activation and mask are applied to a block that is still in the nearest cache. Most squares of
// weights are alive as a whole: they are loaded as they are.
#include "../activate.h"
#include "../transpose.h"
#include "block.h"
#include "kernels.h"

namespace vlae::masked_linear::VLAE_ISA {

using namespace vlae::VLAE_ISA;

namespace {

constexpr int64_t kAhead = 64;  // floats of a row that are asked for before they are packed
constexpr int64_t kRowsAhead = 32;

IntVec load_degrees(const LinearLayer& layer, int64_t i) {
  IntVec degrees;
  __builtin_memcpy(&degrees, layer.in_degrees + i, sizeof degrees);
  return degrees;
}

// All ones where W[o, i + lane] is alive, for count lanes.
IntVec live(const LinearLayer& layer, int64_t o, int64_t i, int64_t count) {
  if (!layer.adjacency) return load_degrees(layer, i) <= layer.out_degrees[o] - IntVec{};
  int32_t lanes[kLanes] = {};
  const bool* row = layer.adjacency + o * layer.inputs + i;
  for (int64_t l = 0; l < count; ++l) lanes[l] = row[l] ? -1 : 0;
  IntVec mask;
  __builtin_memcpy(&mask, lanes, sizeof mask);
  return mask;
}

Vec live_weights(const LinearLayer& layer, int64_t o, int64_t i, int64_t count) {
  const int64_t row = layer.out_order ? layer.out_order[o] : o;
  const Vec weights = load_at(layer.weight + row * layer.inputs, layer.in_order, i, count);
  return live(layer, o, i, count) ? weights : Vec{};
}

// True where the degrees decide and the numbers of the units are their places: the usual layer, with a short way of its own.
bool is_plain(const LinearLayer& layer) { return !layer.adjacency && !layer.in_order && !layer.out_order; }

// The degree that decides whether a column's entries are alive as a whole: of outputs the least, of inputs the most.
int32_t least_degree(const int32_t* degrees, const Columns& columns) {
  int32_t least = degrees[columns.first];
  for (int64_t c = 1; c < columns.count; ++c) least = degrees[columns.first + c] < least ? degrees[columns.first + c] : least;
  return least;
}

int32_t most_degree(const int32_t* degrees, const Columns& columns) {
  int32_t most = degrees[columns.first];
  for (int64_t c = 1; c < columns.count; ++c) most = degrees[columns.first + c] > most ? degrees[columns.first + c] : most;
  return most;
}

// A vector of outputs, and up to which degree of an input all of them read it.
struct OutputVector {
  Columns columns;
  int64_t reads;

  OutputVector(const LinearLayer& layer, const Columns& outputs) : columns(outputs), reads(INT64_MIN) {
    if (outputs.count == kLanes && is_plain(layer)) reads = least_degree(layer.out_degrees, outputs);
  }
};

// depth inputs from k on, one row for each; `width` floats from one to the next.
void pack_square(const LinearLayer& layer, const OutputVector& v, int64_t k, int64_t depth, int64_t width, float* to) {
  Vec square[kLanes];
  // inputs of a run ascend
  if (depth == kLanes && v.reads != INT64_MIN && layer.in_degrees[k + depth - 1] <= v.reads) {
    const float* weight = layer.weight + v.columns.first * layer.inputs + k;
#pragma GCC unroll 16
    for (int64_t l = 0; l < kLanes; ++l) {
      __builtin_prefetch(weight + l * layer.inputs + kAhead);
      square[l] = load(weight + l * layer.inputs);
    }
    transpose(square);
#pragma GCC unroll 16
    for (int64_t l = 0; l < kLanes; ++l) store(to + l * width, square[l]);
    return;
  }
  if (is_plain(layer)) {
    const IntVec degrees = load_degrees(layer, k);
    for (int64_t l = 0; l < kLanes; ++l) {
      const int64_t o = v.columns.first + least(l, v.columns.count - 1);
      const Vec weights = load_some(layer.weight + o * layer.inputs + k, depth);
      square[l] = (degrees <= layer.out_degrees[o] - IntVec{}) ? weights : Vec{};
    }
  } else {
    for (int64_t l = 0; l < kLanes; ++l)
      square[l] = l < v.columns.count ? live_weights(layer, v.columns.first + l, k, depth) : Vec{};
  }
  transpose(square);
  for (int64_t l = 0; l < depth; ++l) store(to + l * width, square[l]);
}

template <int Vecs>
void pack_outputs_of(const LinearLayer& layer, const OutputVector (&vectors)[Vecs], const Runs& runs, float* to) {
  for (const Run* run = runs.data; run != runs.data + runs.count; ++run)
    for (int64_t k = 0; k < run->length; k += kLanes)
      for (int v = 0; v < Vecs; ++v)
        pack_square(layer, vectors[v], run->offset + k, least(kLanes, run->length - k), Vecs * kLanes,
                    to + (run->weight + k) * Vecs * kLanes + v * kLanes);
}

void pack_outputs(const LinearLayer& layer, const Panel& panel, float* to) noexcept {
  const OutputVector last(layer, panel.columns[1]);
  if (panel.both.count > 0) pack_outputs_of<2>(layer, {{layer, panel.columns[0]}, last}, panel.both, to);
  pack_outputs_of<1>(layer, {last}, panel.more, to + panel.both.length * kPanel);
}

// A vector of inputs, and from which degree on an output reads all of them.
struct InputVector {
  const LinearLayer& layer;
  Columns columns;
  bool plain;
  IntVec degrees = {};
  int32_t read_from = 0;

  InputVector(const LinearLayer& of, const Columns& inputs) : layer(of), columns(inputs), plain(is_plain(of)) {
    if (!plain || inputs.count == 0) return;
    degrees = load_degrees(of, inputs.first);
    read_from = most_degree(of.in_degrees, inputs);
  }

  IntVec live_for(int64_t o) const {
    return plain ? degrees <= layer.out_degrees[o] - IntVec{} : live(layer, o, columns.first, columns.count);
  }

  bool all_alive(int64_t o) const { return plain && columns.count == kLanes && layer.out_degrees[o] >= read_from; }

  Vec weights(int64_t o) const {
    if (!plain) return live_weights(layer, o, columns.first, columns.count);
    const float* row = layer.weight + o * layer.inputs + columns.first;
    if (all_alive(o)) return load(row);
    const Vec some = load_some(row, columns.count);
    return live_for(o) ? some : Vec{};
  }
};

template <int Vecs>
void pack_inputs_of(const LinearLayer& layer, const InputVector (&vectors)[Vecs], const Runs& runs, float* to) {
  for (const Run* run = runs.data; run != runs.data + runs.count; ++run)
    for (int64_t o = run->offset; o < run->offset + run->length; ++o)
      for (int v = 0; v < Vecs; ++v, to += kLanes) {
        __builtin_prefetch(layer.weight + (o + kRowsAhead) * layer.inputs + vectors[v].columns.first);
        store(to, vectors[v].weights(o));
      }
}

void pack_inputs(const LinearLayer& layer, const Panel& panel, float* to) noexcept {
  const InputVector last(layer, panel.columns[1]);
  if (panel.both.count > 0) pack_inputs_of<2>(layer, {{layer, panel.columns[0]}, last}, panel.both, to);
  pack_inputs_of<1>(layer, {last}, panel.more, to + panel.both.length * kPanel);
}

void pack_rows(const float* rows, int64_t stride, int64_t count, const Panel& panel, float* to) noexcept {
  for (int64_t r = 0; r < count; ++r, rows += stride)
    for (const Columns& columns : panel.columns) {
      __builtin_prefetch(rows + kRowsAhead * stride + columns.first);
      store(to, columns.count > 0 ? load_some(rows + columns.first, columns.count) : Vec{});
      to += kLanes;
    }
}

// Never inlined: one copy of the arithmetic, on whole vectors.
[[gnu::noinline]] void activate_block(Activation activation, int64_t rows, float* block) {
  for (int64_t i = 0; i < rows * kPanel; i += kLanes) store(block + i, apply(activation, load(block + i)));
}

// Rows first .. first + count - 1 of a vector of columns go to their places in out.
void finish(const PanelProduct& p, int64_t first, int64_t count, const Columns& columns, const float* block) {
  float* out = p.out + first * p.out_stride;
  if (p.layer) {
    const InputVector inputs(*p.layer, columns);
    for (int64_t r = 0; r < count; ++r, out += p.out_stride, block += kPanel) {
      Vec value = load(block);
      const int64_t o = p.first_row + first + r;
      if (!inputs.all_alive(o)) value = inputs.live_for(o) ? value : Vec{};
      store_some(out + columns.first, value, columns.count);
    }
    return;
  }
  for (int64_t r = 0; r < count; ++r, out += p.out_stride, block += kPanel)
    store_at(out, p.to_columns, columns.first, load(block), columns.count);
}

// Asks for the lines that will be written while there is a product to wait for.
void fetch_output(const PanelProduct& p, int64_t first, int64_t count) {
  if (p.to_columns) return;
  for (int64_t r = first; r < first + count; ++r)
    for (const Columns& columns : p.panel.columns) __builtin_prefetch(p.out + r * p.out_stride + columns.first, 1);
}

// True where the panel's vectors are whole and go to out as they are, or after a relu.
bool goes_as_it_is(const PanelProduct& p) {
  return p.panel.columns[0].count == kLanes && p.panel.columns[1].count == kLanes && !p.to_columns &&
         (p.activation == Activation::none || p.activation == Activation::relu) && (!p.layer || is_plain(*p.layer));
}

// The degree from which on an output reads all inputs of the panel; any degree where out is no gradient of W.
int32_t all_alive_from(const PanelProduct& p) {
  int32_t most = INT32_MIN;
  for (int v = 0; p.layer && v < kPanelVecs; ++v) {
    const int32_t of_vector = most_degree(p.layer->in_degrees, p.panel.columns[v]);
    most = of_vector > most ? of_vector : most;
  }
  return most;
}

void multiply_block(const PanelProduct& p, int64_t first, int64_t count, const Vec (&bias)[kPanelVecs], bool as_relu,
                    const BlockOut& out) {
  if (p.left_step) return BlockTable<SideBySide>::by_rows[count - 1]({p.left + first, p.left_step, 0}, p, bias, as_relu, out);
  const StridedRows left = {p.left + first * p.left_stride, p.left_stride, 0};
  BlockTable<StridedRows>::by_rows[count - 1](left, p, bias, as_relu, out);
}

void multiply(const PanelProduct& p) noexcept {
  const Columns* columns = p.panel.columns;
  Vec bias[kPanelVecs] = {};
  for (int v = columns[0].count > 0 ? 0 : 1; p.bias && v < kPanelVecs; ++v)
    bias[v] = load_some(p.bias + columns[v].first, columns[v].count);
  const bool as_it_is = goes_as_it_is(p), as_relu = p.activation == Activation::relu;
  const int32_t alive_from = as_it_is ? all_alive_from(p) : 0;
  const int64_t blocks = (p.rows + kMaxRows - 1) / kMaxRows;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = p.rows * b / blocks, count = p.rows * (b + 1) / blocks - first;
    fetch_output(p, first, count);
    if (as_it_is && (!p.layer || least_degree(p.layer->out_degrees, {p.first_row + first, count}) >= alive_from)) {
      float* out = p.out + first * p.out_stride;
      multiply_block(p, first, count, bias, as_relu, {{out + columns[0].first, out + columns[1].first}, p.out_stride});
      continue;
    }
    alignas(64) float block[kBlock];
    multiply_block(p, first, count, bias, false, {{block, block + kLanes}, kPanel});
    if (p.activation != Activation::none) activate_block(p.activation, count, block);
    if (columns[0].count > 0) finish(p, first, count, columns[0], block);
    finish(p, first, count, columns[1], block + kLanes);
  }
}

}  // namespace

Kernels kernels() { return {kLanes, pack_outputs, pack_inputs, pack_rows, multiply, slopes}; }

}  // namespace vlae::masked_linear::VLAE_ISA
