// block[p][r][n] += sum over runs, over k of rows[r][run.offset + k] * weight[p][run.weight + k][n]
//
// A matrix product whose left rows lie anywhere: each row is a pointer, and the runs (shared by all rows) are the
// stretches of memory behind it that are multiplied. A convolution over channels_last data is that: neighbouring taps are one
// run. Its weight gradient is the same product with rows side by side in memory and k over pixels.
//
// The block stays in registers: up to kMaxRows x 2 vectors, so a weight is loaded once for all rows and a row's value once
// for two vectors. Two panels are taken at a time where a panel's sums of few rows cannot fill the latency of the
// multiply-adds.
//
// Every output has a single accumulator and takes its products in the order of the runs, k ascending, in every
// instantiation: its bits do not depend on the rows that happen to share its block. It starts from the block, or (`fresh`)
// from 0 and is added to the block: long sums cut into such parts err less.
#pragma once

#include <utility>

#include "runs.h"
#include "values.h"

namespace vlae::VLAE_ISA {

// With scalars in registers, two sums and a value for each row beside two weights: GCC loads all values first, and more spill.
constexpr int kMaxRows = kScalarsInRegisters ? 10 : kManyRegisters ? 14 : 6;
constexpr int kFewRows = 3;
constexpr int kPanel = kPanelVecs * kLanes;  // floats between two rows of a block
constexpr int kBlock = kMaxRows * kPanel;    // floats between the blocks of two panels

// Rows anywhere, k along memory: floats, or pairs of bfloat16, whose k is a pair.
template <typename Held = Float32>
struct RowPointers {
  using Values = Held;

  const float* const* rows;

  static constexpr int64_t weight_step(int64_t packed) { return packed; }

  template <int Rows>
  struct Behind {
    const float* row[Rows];
    Behind(const RowPointers& left, int64_t offset) {
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r) row[r] = left.rows[r] + offset;
    }
    float at(int r, int64_t k) const { return row[r][k]; }
  };
};

// Rows `stride` floats apart, k along memory. A base for every three rows: an address is then a base plus 0, 1 or 2 strides,
// and 14 rows fit the general registers, which a pointer for each does not.
struct StridedRows {
  using Values = Float32;

  const float* first;
  int64_t stride, weights;

  int64_t weight_step(int64_t) const { return weights; }

  template <int Rows>
  struct Behind {
    const float* base[(Rows + 2) / 3];
    int64_t stride;
    Behind(const StridedRows& left, int64_t offset) : stride(left.stride) {
#pragma GCC unroll 8
      for (int i = 0; i < (Rows + 2) / 3; ++i) base[i] = left.first + 3 * i * stride + offset;
    }
    float at(int r, int64_t k) const { return base[r / 3][r % 3 * stride + k]; }
  };
};

// Rows side by side, `step` floats from k to k + 1: the transpose of a matrix read in place. So are the weights, whose columns
// may overlap those of k + 1: the surplus of a vector ends in columns of the block that nobody reads.
struct SideBySide {
  using Values = Float32;

  const float* first;
  int64_t step, weights;

  int64_t weight_step(int64_t) const { return weights; }

  template <int Rows>
  struct Behind {
    const float* first;
    int64_t step;
    Behind(const SideBySide& left, int64_t offset) : first(left.first + offset), step(left.step) {}
    float at(int r, int64_t k) const { return first[k * step + r]; }
  };
};

// panel_stride: floats between the weights of two panels.
template <typename Left>
using GemmRows = void (*)(const Left& left, const Run* runs, int n_runs, bool fresh, const float* weight, int64_t panel_stride,
                          float* block);

template <typename Left, int Rows, int Vecs, int Panels>
[[gnu::noinline]] void gemm_rows(const Left& left, const Run* runs, int n_runs, bool fresh, const float* weight,
                                 int64_t panel_stride, float* block) {
  Vec acc[Rows][Panels][Vecs];
#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Panels * Vecs; ++v)
      acc[r][v / Vecs][v % Vecs] = fresh ? Vec{} : load(block + v / Vecs * kBlock + r * kPanel + v % Vecs * kLanes);

  const int64_t step = left.weight_step(Vecs * kLanes);
  for (const Run* run = runs; run != runs + n_runs; ++run) {
    const typename Left::template Behind<Rows> a(left, run->offset);
    const float* w = weight + run->weight * step;
    for (int64_t k = 0; k < run->length; ++k, w += step) {
      Vec b[Panels][Vecs];
#pragma GCC unroll 4
      for (int v = 0; v < Panels * Vecs; ++v) b[v / Vecs][v % Vecs] = load(w + v / Vecs * panel_stride + v % Vecs * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
        for (int v = 0; v < Panels * Vecs; ++v)
          acc[r][v / Vecs][v % Vecs] =
              Left::Values::multiply_add(a.at(r, k), b[v / Vecs][v % Vecs], acc[r][v / Vecs][v % Vecs]);
    }
  }

#pragma GCC unroll 16
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Panels * Vecs; ++v) {
      float* to = block + v / Vecs * kBlock + r * kPanel + v % Vecs * kLanes;
      store(to, fresh ? acc[r][v / Vecs][v % Vecs] + load(to) : acc[r][v / Vecs][v % Vecs]);
    }
}

// GemmTable<Left, Vecs, Panels>::by_rows[n - 1] is the product for n rows.
template <typename Left, int Vecs, int Panels,
          typename Rows = std::make_integer_sequence<int, Panels == 1 ? kMaxRows : kFewRows>>
struct GemmTable;

template <typename Left, int Vecs, int Panels, int... R>
struct GemmTable<Left, Vecs, Panels, std::integer_sequence<int, R...>> {
  static constexpr GemmRows<Left> by_rows[] = {gemm_rows<Left, R + 1, Vecs, Panels>...};
};

}  // namespace vlae::VLAE_ISA
