// A masked linear layer and the products it needs: plain data that the kernels of every instruction set share. No inline
// functions and no containers here: the per-instruction-set files must not instantiate shared code.
//
// y = act(x W^T + b), grad x = g W and grad W = g^T x with g = grad * act' are one kind of product: rows that are read where
// they are, times a panel of two vectors of columns that is packed first. The vectors of a panel are those that need most
// alike of the inner dimension; what both need comes first, then what the second one needs alone. Nothing else of W is read
// or multiplied.
#pragma once

#include <cstdint>

#include "../../activation.h"
#include "../runs.h"

namespace vlae::masked_linear {

constexpr int kDegreePadding = 16;  // entries behind in_degrees that are dead for every output: a vector may read them
constexpr int kSlopeVecs = 64;      // vectors of columns of a call of `slopes`

// W is [outputs, inputs]; its entry (o, i) is alive where in_degrees[i] <= out_degrees[o], or where adjacency says so.
struct LinearLayer {
  int64_t inputs, outputs;
  const float* weight;
  // Where the units are that are numbered by their degrees: input i is column in_order[i] of W, output o is row out_order[o]
  // and column out_order[o] of y. nullptr: the numbers are the places. Gradients are computed where there are none.
  const int32_t *in_order, *out_order;
  const int32_t *in_degrees, *out_degrees;
  const bool* adjacency;  // nullptr: the degrees say it
};

// Columns first .. first + count - 1 of a product.
struct Columns {
  int64_t first, count;
};

struct Runs {
  const Run* data;
  int count;
  int64_t length;  // of all
};

// Two vectors of columns. In memory: [row of `both`][2 vectors], then [row of `more`][vector], filled up with zeros to whole
// vectors.
struct Panel {
  Columns columns[kPanelVecs];  // [0] may have none: there is only [1] then, and `both` is empty
  Runs both, more;              // what of the inner dimension both need, what [1] needs alone
};

// out[r, columns] = act(bias + left[r] panel) for r = 0 .. rows - 1.
struct PanelProduct {
  const float* left;
  int64_t left_stride, rows;  // floats between two rows of left, whose numbers lie along memory
  int64_t left_step;          // not 0: the rows lie side by side, and so many floats are between two numbers of one of them
  Panel panel;
  const float *of_both, *of_more;  // the packed panel
  int64_t more_step;               // floats between its rows of `more`
  float* out;                      // of row 0 and column 0
  int64_t out_stride;
  const int32_t* to_columns;  // where the columns go in out; nullptr: to their own numbers
  const float* bias;          // [all columns] or nullptr
  Activation activation;
  const LinearLayer* layer;  // given: out is a gradient of W, and 0 where its entry is dead
  int64_t first_row;         // the output that row 0 is then
};

// g = grad * act'(y) and its sum over the batch, for a range of columns.
struct Slopes {
  const float *grad, *y;  // [batch, outputs]
  int64_t batch, outputs;
  const int32_t* order;  // the places of the outputs in grad, y and sums; nullptr: their numbers
  Activation activation;
  float* g;  // nullptr: not wanted
  int64_t g_stride;
  float* sums;  // nullptr: not wanted
};

struct Kernels {
  int lanes;
  void (*pack_outputs)(const LinearLayer&, const Panel&, float* to) noexcept;  // of W^T
  void (*pack_inputs)(const LinearLayer&, const Panel&, float* to) noexcept;   // of W
  // `count` rows of both vectors, as rows of `both`.
  void (*pack_rows)(const float* rows, int64_t stride, int64_t count, const Panel&, float* to) noexcept;
  void (*multiply)(const PanelProduct&) noexcept;
  void (*slopes)(const Slopes&, const Columns&) noexcept;  // at most kSlopeVecs vectors of columns
};

}  // namespace vlae::masked_linear
