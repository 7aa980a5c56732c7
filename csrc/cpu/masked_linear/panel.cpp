// Panels of a masked linear layer, packed and multiplied, for one instruction set.
//
// Columns of a product go in panels of two vectors, its rows in blocks of up to kMaxRows: a block is 14 x 32 floats in
// registers under AVX-512, 6 x 16 under AVX2. Dead weights are zeroed while packing, in registers, so that no masked copy of W
// is ever made and bias, activation and mask are applied to a block that is still in the nearest cache.
#include "../activate.h"
#include "../gemm_rows.h"
#include "../transpose.h"
#include "kernels.h"
#include "layer.h"

namespace vlae::masked_linear::VLAE_ISA {

using namespace vlae::VLAE_ISA;

namespace {

constexpr int64_t kChunk = 128;  // longer sums would round worse than those of a blocked matrix product

int vectors(const Columns& columns) { return columns.count > kLanes ? 2 : 1; }

// All ones where W[o, i + lane] is alive, for count lanes.
IntVec live(const LinearLayer& layer, int64_t o, int64_t i, int64_t count) {
  int32_t lanes[kLanes] = {};
  if (!layer.adjacency) {
    IntVec degrees;
    __builtin_memcpy(&degrees, layer.in_degrees + i, sizeof degrees);
    return degrees <= layer.out_degrees[o] - IntVec{};
  }
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

void pack_outputs(const LinearLayer& layer, const Columns& columns, const Runs& runs, float* panel) noexcept {
  const int64_t width = vectors(columns) * kLanes;
  for (const Run* run = runs.data; run != runs.data + runs.count; ++run)
    for (int64_t k = 0; k < run->length; k += kLanes)
      for (int64_t c = 0; c < width; c += kLanes) {
        const int64_t depth = least(kLanes, run->length - k);
        Vec square[kLanes];
        for (int64_t l = 0; l < kLanes; ++l)
          square[l] = c + l < columns.count ? live_weights(layer, columns.first + c + l, run->offset + k, depth) : Vec{};
        transpose(square);
        float* to = panel + (run->weight + k) * width + c;
        for (int64_t l = 0; l < depth; ++l) store(to + l * width, square[l]);
      }
}

void pack_inputs(const LinearLayer& layer, const Columns& columns, const Runs& runs, float* panel) noexcept {
  const int64_t width = vectors(columns) * kLanes;
  for (const Run* run = runs.data; run != runs.data + runs.count; ++run)
    for (int64_t k = 0; k < run->length; ++k)
      for (int64_t c = 0; c < width; c += kLanes)
        store(panel + (run->weight + k) * width + c,
              live_weights(layer, run->offset + k, columns.first + c, least(kLanes, columns.count - c)));
}

void pack_rows(const float* rows, int64_t stride, int64_t count, const Columns& columns, float* panel) noexcept {
  const int64_t width = vectors(columns) * kLanes;
  for (int64_t r = 0; r < count; ++r)
    for (int64_t c = 0; c < width; c += kLanes)
      store(panel + r * width + c, load_some(rows + r * stride + columns.first + c, least(kLanes, columns.count - c)));
}

// Rows first .. first + count - 1 of the block go to their places in out.
void finish(const PanelProduct& p, int64_t first, int64_t count, const float* block) {
  for (int64_t r = first; r < first + count; ++r, block += kPanel)
    for (int64_t c = 0; c < p.columns.count; c += kLanes) {
      const int64_t lanes = least(kLanes, p.columns.count - c);
      Vec value = apply(p.activation, load(block + c));
      if (p.layer) value = live(*p.layer, p.first_row + r, p.columns.first + c, lanes) ? value : Vec{};
      store_at(p.out + r * p.out_stride, p.to_columns, p.columns.first + c, value, lanes);
    }
}

// total += rows x panel, at most kChunk products in an accumulator at a time.
template <int Vecs>
void accumulate(const Runs& runs, const float* const* rows, int64_t count, const float* panel, float* total) {
  for (const Run* run = runs.data; run != runs.data + runs.count; ++run)
    for (int64_t k = 0; k < run->length; k += kChunk) {
      const Run chunk = {run->offset + k, run->weight + k, least(kChunk, run->length - k)};
      const bool fresh = k > 0 || run != runs.data;
      GemmTable<RowPointers, Vecs, 1>::by_rows[count - 1]({rows}, &chunk, 1, fresh, panel, 0, total);
    }
}

template <int Vecs>
void multiply_panel(const PanelProduct& p) {
  alignas(64) float block[kBlock] = {};
  Vec bias[Vecs] = {};
  if (p.bias)
    for (int v = 0; v < Vecs; ++v)
      bias[v] = load_some(p.bias + p.columns.first + v * kLanes, least(kLanes, p.columns.count - v * kLanes));
  const int64_t blocks = (p.rows + kMaxRows - 1) / kMaxRows;
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = p.rows * b / blocks, count = p.rows * (b + 1) / blocks - first;
    const float* rows[kMaxRows];
    for (int64_t r = 0; r < count; ++r) {
      rows[r] = p.left + (first + r) * p.left_stride;
      for (int v = 0; v < Vecs; ++v) store(block + r * kPanel + v * kLanes, bias[v]);
    }
    accumulate<Vecs>(p.runs, rows, count, p.panel, block);
    finish(p, first, count, block);
  }
}

void multiply(const PanelProduct& p) noexcept { (vectors(p.columns) == 2 ? multiply_panel<2> : multiply_panel<1>)(p); }

}  // namespace

Kernels kernels() { return {kLanes, pack_outputs, pack_inputs, pack_rows, multiply, slopes}; }

}  // namespace vlae::masked_linear::VLAE_ISA
