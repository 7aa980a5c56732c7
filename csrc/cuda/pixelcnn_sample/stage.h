// Stages of a section: a warp computes 16 columns of a block of rows of one over all products, so that no sums are exchanged
// and one barrier a block of rows is enough. A lane has both columns of a gate.
#pragma once

#include "multiply_float.h"
#include "multiply_half.h"
#include "output.h"

namespace vlae::cuda::pixelcnn_sample {

// What a warp computes next: 16 columns of a stage, number `number` of them; or, of a norm, its rows.
struct Turn {
  Head head;
  int stage, number;
  int next, again;  // the stage's, for this warp
  int is_behind;    // a barrier that comes before it
};
constexpr int kFirst = -1;  // the number of a turn's first columns, while its head is under way

template <typename T>
__device__ inline Turn turn_of(int s, int number, bool is_behind, const ThreadBlock<T>& block) {
  const Stage& stage = block.stages[s];
  return {stage, s, number, stage.next[warp_of()], stage.again[warp_of()], is_behind};
}

// What comes behind a turn. is_last: the last block of rows of its section.
template <typename T>
__device__ inline Turn turn_behind(const Turn& turn, bool is_last, const ThreadBlock<T>& block) {
  const int number = turn.number + kWarps;
  const bool is_more = number * 16 < turn.head.columns && turn.head.kind != Kind::norm, is_behind = turn.next >= kBehind;
  const int next = is_behind && !is_last ? turn.again : turn.next & (kBehind - 1);
  return turn_of(is_more ? turn.stage : next, is_more ? number : kFirst, !is_more && is_behind, block);
}

template <typename T>
__device__ inline ColumnWeights columns_of(const Turn& turn) {
  const int bias = turn.head.bias + turn.number * Shape<T>::biases;
  return {turn.head.weight + turn.number * turn.head.tiles * kLoads<T>, turn.head.tiles, bias};
}

// The columns of a turn whose head is there; of a norm none.
template <typename T>
__device__ inline ColumnWeights columns_of(Turn& turn) {
  if (turn.number == kFirst) turn.number = (warp_of() - turn.head.warp) & (kWarps - 1);
  return columns_of<T>(static_cast<const Turn&>(turn));
}

// What is to be loaded for a turn behind another one: nothing where it is at hand.
template <typename T>
__device__ inline ColumnWeights columns_behind(const Turn& now, Turn& turn) {
  ColumnWeights columns = columns_of<T>(turn);
  if (turn.number == now.number && turn.stage == now.stage && columns.tiles <= kAhead<T>) columns.tiles = 0;
  return columns;
}

// A lane's outputs: [tile of rows][row of it][pair of columns], of two columns; x alone where they make one channel.
template <typename T, int Tiles>
struct Outputs {
  float2 of[Tiles][2][Shape<T>::pairs] = {};
};

template <typename T, int Tiles, typename Change>
__device__ inline void for_outputs(Outputs<T, Tiles>& outputs, const Change& change) {
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int right = 0; right < Shape<T>::pairs; ++right) change(outputs.of[tile][half][right], tile, half, right);
}

template <typename T>
__device__ inline int row_of(int tile, int half) {
  return Shape<T>::rows * tile + Shape<T>::row(half);
}
template <typename T>
__device__ inline int first_column(int number) {
  return 16 * number + Shape<T>::column();
}

// The places of a lane's rows: [tile of rows][row of it].
template <int Tiles>
struct Places {
  int4 of[Tiles][2];
};

// What each of a lane's sums starts from beside the bias: 0 without a condition. Those of single pixels are in global memory.
template <int Tiles, typename T>
__device__ inline void load_conditions(Outputs<T, Tiles>& conditions, const Program& p, const Turn& turn, const Tensors& t,
                                       const Places<Tiles>& places, int rows, const ThreadBlock<T>& block) {
  const int first = turn.head.cond + first_column<T>(turn.number);
  const bool is_any = turn.head.cond >= 0, is_near = block.conditions != nullptr;
  for_outputs(conditions, [&](float2& condition, int tile, int half, int right) {
    const uint32_t place = static_cast<uint32_t>(condition_of(places.of[tile][half]));
    load_near_if(condition, block.conditions, place + static_cast<uint32_t>(first + 8 * right), is_any && is_near);
  });
  if (!is_any || is_near) return;
  const float* from = t.cond + static_cast<int64_t>(block.first_sample) * p.cond_pixels * p.cond_columns + first;
  for_outputs(conditions, [&](float2& condition, int tile, int half, int right) {
    const int64_t at = static_cast<int64_t>(condition_of(places.of[tile][half])) * p.cond_columns + 8 * right;
    if (row_of<T>(tile, half) < rows) condition = *reinterpret_cast<const float2*>(from + at);
  });
}

// One output after the other passes the same code.
template <typename T, int Tiles>
__device__ inline void activate_in_turn(Activation activation, Outputs<T, Tiles>& outputs) {
  constexpr int kPairs = Shape<T>::pairs;
  const auto number = [](int tile, int half, int right) { return 2 * ((2 * tile + half) * kPairs + right); };
#pragma unroll 1
  for (int turn = 0; turn < 4 * kPairs * Tiles; ++turn) {
    float x = 0;
    for_outputs(outputs, [&](float2& out, int tile, int half, int right) {
      const int at = number(tile, half, right);
      x = turn == at ? out.x : turn == at + 1 ? out.y : x;
    });
    x = activate_in_stage(activation, x);
    for_outputs(outputs, [&](float2& out, int tile, int half, int right) {
      const int at = number(tile, half, right);
      out = {turn == at ? x : out.x, turn == at + 1 ? x : out.y};
    });
  }
}

// In float32 by the exact functions, else by those of the hardware.
template <typename T>
__device__ inline float times_sigmoid_in(float a, float b) {
  return dtype_of<T> == Dtype::float32 ? times_sigmoid(a, b) : times_sigmoid_fast(a, b);
}
template <typename T>
__device__ inline float gate_of(const float2& x) {
  return times_sigmoid_in<T>(dtype_of<T> == Dtype::float32 ? tanhf(x.x) : tanh_fast(x.x), x.y);
}

template <typename T, int Tiles>
__device__ inline void activate_outputs(Activation activation, Outputs<T, Tiles>& outputs) {
  if (activation == Activation::none) return;
  if (activation == Activation::relu)
    for_outputs(outputs, [](float2& out, int, int, int) { out = {relu(out.x), relu(out.y)}; });
  else if (activation == Activation::gate)
    for_outputs(outputs, [](float2& out, int, int, int) { out.x = gate_of<T>(out); });
  else if (activation == Activation::glu)
    for_outputs(outputs, [](float2& out, int, int, int) { out.x = times_sigmoid_in<T>(out.x, out.y); });
  else if (dtype_of<T> != Dtype::float32 && is_short(activation))
    for_outputs(outputs, [&](float2& out, int, int, int) {
      out = {activate_fast(activation, out.x), activate_fast(activation, out.y)};
    });
  else
    activate_in_turn(activation, outputs);
}

// Changes a lane's outputs by those of another buffer, [place_of]; beyond the last row or channel, by zeros.
template <int Tiles, typename T, typename PlaceOf, typename Change>
__device__ inline void join_outputs(const Turn& turn, Outputs<T, Tiles>& outputs, int rows, const ThreadBlock<T>& block,
                                    const PlaceOf& place_of, const Change& change) {
  const int first = first_column<T>(turn.number);
  const bool pairs = is_pair(turn.head.activation);
  for_outputs(outputs, [&](float2& out, int tile, int half, int right) {
    const int column = first + 8 * right, channel = pairs ? column / 2 : column;
    const bool is_any = row_of<T>(tile, half) < rows && channel < turn.head.channels;
    const int4 places = places_of(turn.head, row_of<T>(tile, half) & (block.rows - 1), block);  // again: registers are few
    const T* from = block.cache + (is_any ? place_of(places) + channel : 0);
    const float2 other = pairs ? float2{to_float(*from), 0} : two_from(from);
    out = {change(out.x, other.x), change(out.y, other.y)};
  });
}

// Activates a lane's outputs and writes them.
template <int Tiles, typename T>
__device__ inline void finish_outputs(const Turn& turn, Outputs<T, Tiles>& outputs, const Places<Tiles>& places, int rows,
                                      const ThreadBlock<T>& block) {
  const Head& head = turn.head;
  const int first = first_column<T>(turn.number);
  const auto put = [&](int tile, int half, int channel, float out) {
    const T value = from_float<T>(out);
    if (row_of<T>(tile, half) < rows && channel < head.channels) block.cache[out_of(places.of[tile][half]) + channel] = value;
  };
  const auto put_first = [&](const float2& out, int tile, int half, int right) {
    put(tile, half, first / 2 + 4 * right, out.x);
  };
  if (head.kind == Kind::gate) {
    for_outputs(outputs, [&](const float2& out, int tile, int half, int right) {
      put_first({gate_of<T>(out), 0}, tile, half, right);
    });
    return;
  }
  activate_outputs(head.activation, outputs);
  const auto add = [](float a, float b) { return a + b; };
  if (head.kind == Kind::residual) {
    join_outputs(turn, outputs, rows, block, residual_of, add);
  } else if (head.kind == Kind::factor) {
    join_outputs(turn, outputs, rows, block, factor_of, [](float a, float b) { return a * b; });
    if (block.stages[turn.stage].residual >= 0) join_outputs(turn, outputs, rows, block, residual_of, add);
  }
  if (is_pair(head.activation))
    for_outputs(outputs, put_first);
  else
    for_outputs(outputs, [&](const float2& out, int tile, int half, int right) {
      put(tile, half, first + 8 * right, out.x);
      put(tile, half, first + 8 * right + 1, out.y);
    });
}

// Computes a warp's turn for some rows. then: the next one.
template <bool InShared, int Tiles, typename T>
__device__ void compute_columns(const Program& p, const Tensors& t, int rows, const Turn& turn, Turn& then,
                                const ThreadBlock<T>& block, Ahead<T>& ahead) {
  Places<Tiles> places;
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
    for (int half = 0; half < 2; ++half)
      places.of[tile][half] = places_of(turn.head, row_of<T>(tile, half) & (block.rows - 1), block);
  FactorsAt<T, Tiles> at(block.cache, block.offsets + turn.head.place, block.rows);
  Outputs<T, Tiles> conditions;
  load_conditions(conditions, p, turn, t, places, rows, block);
  Sums<T, Tiles> sums;
  start_sums(sums, ahead.bias, conditions.of);
  const auto next = [&] { return columns_behind<T>(turn, then); };
  multiply<InShared>(sums, ahead, t.packed, columns_of<T>(turn), next, at);
  Outputs<T, Tiles> outputs;
  for_outputs(outputs, [&](float2& out, int tile, int half, int right) { out = sum_at(sums, tile, half, right); });
  load_behind(ahead, t.packed, next);
  finish_outputs(turn, outputs, places, rows, block);
}

// Computes this warp's turns in a section for the block of rows that begins with `row`. is_last: no rows follow. turn: its
// next, here or in another section. ahead: the weights of that.
template <bool InShared, typename T>
__device__ void run_turns(const Program& p, int section, int row, const Tensors& t, bool is_last, const ThreadBlock<T>& block,
                          Ahead<T>& ahead, Turn& turn) {
  if (turn.head.section != section) return;
  do {
    const Turn now = turn;
    const int rows = block.reached[now.stage].rows - row;
    turn = turn_behind(now, is_last, block);
    const bool is_norm = now.head.kind == Kind::norm;
    if (is_norm || rows <= 0) {
      if (is_norm) normalise_rows(block.stages[now.stage], t, min(block.rows, rows), block);
      load_next(ahead, t.packed, columns_behind<T>(now, turn));
    } else if (rows > Shape<T>::rows) {
      compute_columns<InShared, 2>(p, t, rows, now, turn, block, ahead);
    } else {
      compute_columns<InShared, 1>(p, t, rows, now, turn, block, ahead);
    }
  } while (!turn.is_behind);
}

}  // namespace vlae::cuda::pixelcnn_sample
