// A block of a product of panels, for one instruction set: up to kMaxRows rows by the two vectors of a panel, in registers from
// the bias to the store.
#pragma once

#include "../gemm_rows.h"
#include "layer.h"

namespace vlae::masked_linear::VLAE_ISA {

using namespace vlae::VLAE_ISA;

constexpr int64_t kChunk = 256;  // longer sums would round worse than those of a blocked matrix product

// Where entry k of the inner dimension stands behind a row.
inline int64_t place_of(const StridedRows&, int64_t k) { return k; }
inline int64_t place_of(const SideBySide& left, int64_t k) { return k * left.step; }

// Where the vectors of a block's first row go, and how far it is to the next row.
struct BlockOut {
  float* vectors[kPanelVecs];
  int64_t stride;
};

// The sums of a block. Products are added to a register, at most kChunk of them before it is added to the total.
template <int Rows>
struct Sums {
  Vec acc[Rows][kPanelVecs];
  alignas(64) float total[Rows * kPanel];
  bool has_total = false;
  int64_t room = kChunk;

  explicit Sums(const Vec (&start)[kPanelVecs]) {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) acc[r][v] = start[v];
  }

  void flush() {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) {
        float* to = total + r * kPanel + v * kLanes;
        store(to, has_total ? load(to) + acc[r][v] : acc[r][v]);
        acc[r][v] = Vec{};
      }
    has_total = true;
    room = kChunk;
  }

  // Vectors First .. kPanelVecs - 1 += rows times `step` floats apart of the panel.
  template <int First, typename Left>
  void add(const Left& left, const Runs& runs, const float* panel, int64_t step) {
    for (const Run* run = runs.data; run != runs.data + runs.count; ++run)
      for (int64_t done = 0; done < run->length;) {
        if (room == 0) flush();
        const int64_t count = least(room, run->length - done);
        const typename Left::template Behind<Rows> a(left, place_of(left, run->offset + done));
        const float* w = panel + (run->weight + done) * step;
        for (int64_t k = 0; k < count; ++k, w += step) {
          Vec b[kPanelVecs];
#pragma GCC unroll 2
          for (int v = First; v < kPanelVecs; ++v) b[v] = load(w + (v - First) * kLanes);
#pragma GCC unroll 16
          for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
            for (int v = First; v < kPanelVecs; ++v) acc[r][v] = a.at(r, k) * b[v] + acc[r][v];
        }
        done += count;
        room -= count;
      }
  }

  void write(bool as_relu, const BlockOut& to) const {
#pragma GCC unroll 16
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 2
      for (int v = 0; v < kPanelVecs; ++v) {
        const Vec sum = has_total ? load(total + r * kPanel + v * kLanes) + acc[r][v] : acc[r][v];
        store(to.vectors[v] + r * to.stride, as_relu ? relu(sum) : sum);
      }
  }
};

// out[r] = start + left[r] panel, both vectors, for the rows of a block; negative numbers as 0 where `as_relu`.
template <typename Left>
using BlockProduct = void (*)(const Left& left, const PanelProduct& p, const Vec (&start)[kPanelVecs], bool as_relu,
                              const BlockOut& out);

template <typename Left, int Rows>
[[gnu::noinline]] void block_product(const Left& left, const PanelProduct& p, const Vec (&start)[kPanelVecs], bool as_relu,
                                     const BlockOut& out) {
  Sums<Rows> sums(start);
  sums.template add<0>(left, p.panel.both, p.of_both, kPanel);
  sums.template add<1>(left, p.panel.more, p.of_more, p.more_step);
  sums.write(as_relu, out);
}

// by_rows[n - 1] is the product for n rows.
template <typename Left, typename Rows = std::make_integer_sequence<int, kMaxRows>>
struct BlockTable;

template <typename Left, int... R>
struct BlockTable<Left, std::integer_sequence<int, R...>> {
  static constexpr BlockProduct<Left> by_rows[] = {block_product<Left, R + 1>...};
};

}  // namespace vlae::masked_linear::VLAE_ISA
