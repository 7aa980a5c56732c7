// Stages of a section: a warp computes 16 columns of a block of rows of one over all products, so that no sums are exchanged
// and one barrier a block of rows is enough. A lane has both columns of a gate.
#pragma once

#include "multiply_float.h"
#include "multiply_half.h"
#include "output.h"

namespace vlae::cuda::pixelcnn_sample {

// What a warp computes next: 16 columns of a stage, number `number` of them; or no stage.
struct Turn {
  int stage = kMaxStages, number = 0;
  ColumnWeights columns;
  int next = kMaxStages, again = kMaxStages;  // the stage's, for this warp
};

// A warp's columns of a stage: the first ones, or of another number.
template <typename T>
__device__ inline Turn turn_of(int s, int number, const Tensors& t, const ThreadBlock<T>& block) {
  constexpr int kLoads = 16 * 16 * sizeof(T) / sizeof(uint4);  // of a tile
  const Stage& stage = block.stages[s];
  const int tiles = stage.groups * format_of(dtype_of<T>).group / 16;
  if (number < 0) number = (warp_of() - stage.warp) & (kWarps - 1);
  return {
      s,
      number,
      {static_cast<const uint4*>(t.packed) + stage.weight + number * kLoads + lane_of(), stage.columns / 16 * kLoads, tiles},
      stage.next[warp_of()],
      stage.again[warp_of()]};
}

// What comes behind a turn. is_last: the last block of rows of its section.
template <typename T>
__device__ inline Turn turn_behind(const Turn& turn, bool is_last, const Tensors& t, const ThreadBlock<T>& block) {
  constexpr int kLoads = 16 * 16 * sizeof(T) / sizeof(uint4);
  const int number = turn.number + kWarps;
  const bool is_more = number * kLoads < turn.columns.step;
  return turn_of(is_more ? turn.stage : is_last ? turn.next : turn.again, is_more ? number : -1, t, block);
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

// What each of a lane's outputs adds to its sum: 0 without a condition.
template <int Tiles, typename T>
__device__ inline void load_conditions(Outputs<T, Tiles>& conditions, const Program& p, const Stage& stage, const Tensors& t,
                                       int number, int rows, const ThreadBlock<T>& block) {
  if (stage.cond < 0) return;
  const float* from = t.cond + stage.cond + first_column<T>(number);
  const int64_t start = static_cast<int64_t>(block.first_sample) * p.cond_pixels;
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of<T>(tile, half);
      if (row >= rows) continue;
      const float* at = from + (start + place_of(stage, kCondition, row, block)) * p.cond_columns;
#pragma unroll
      for (int right = 0; right < Shape<T>::pairs; ++right)
        conditions.of[tile][half][right] = __ldg(reinterpret_cast<const float2*>(at + 8 * right));
    }
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

// Where a lane writes: [tile of rows][row of it].
template <int Tiles>
struct Places {
  int of[Tiles][2];
};

// Activates a lane's outputs and writes them: those of plain stages without a branch at each.
template <int Tiles, typename T>
__device__ inline void finish_outputs(const Stage& stage, Outputs<T, Tiles>& outputs, const Places<Tiles>& places, int rows,
                                      int number, const ThreadBlock<T>& block) {
  const int channels = stage.channels, first = first_column<T>(number);
  const bool pairs = is_pair(stage.activation);
  const auto put = [&](int tile, int half, int channel, float out) {
    const T value = from_float<T>(out);
    if (row_of<T>(tile, half) < rows && channel < channels) block.cache[places.of[tile][half] + channel] = value;
  };
  if (stage.is_plain && stage.activation == Activation::gate) {
    for_outputs(outputs, [&](const float2& out, int tile, int half, int right) {
      put(tile, half, first / 2 + 4 * right, gate_of<T>(out));
    });
    return;
  }
  activate_outputs(stage.activation, outputs);
  if (stage.is_plain && !pairs) {
    for_outputs(outputs, [&](const float2& out, int tile, int half, int right) {
      put(tile, half, first + 8 * right, out.x);
      put(tile, half, first + 8 * right + 1, out.y);
    });
    return;
  }
  const auto write = [&](bool is_any, int tile, int half, int channel, float out) {
    if (is_any && channel < channels) write_output(stage, row_of<T>(tile, half), places.of[tile][half], channel, out, block);
  };
  for_outputs(outputs, [&](const float2& out, int tile, int half, int right) {
    const int column = first + 8 * right;
    const bool is_any = row_of<T>(tile, half) < rows;
    write(is_any, tile, half, pairs ? column / 2 : column, out.x);
    write(is_any && !pairs, tile, half, column + 1, out.y);
  });
}

// Computes a warp's turn for some rows.
template <bool InShared, int Tiles, typename T>
__device__ void compute_columns(const Program& p, const Stage& stage, const Tensors& t, int rows, const Turn& turn,
                                const ColumnWeights& next, const ThreadBlock<T>& block, Ahead<T>& ahead) {
  Places<Tiles> places;
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
    for (int half = 0; half < 2; ++half)
      places.of[tile][half] = place_of(stage, kOut, row_of<T>(tile, half) & (block.rows - 1), block);
  const int first = first_column<T>(turn.number);
  const T* packed = static_cast<const T*>(t.packed) + 16 / sizeof(T) * static_cast<int64_t>(stage.bias) + first;
  const float* kept = block.biases ? block.biases + stage.first_bias + first : nullptr;
  Sums<T, Tiles> sums;
#pragma unroll
  for (int right = 0; right < Shape<T>::pairs; ++right)
    start_sums(sums, right, bias_of<float2>(kept ? kept + 8 * right : nullptr, packed + 8 * right));
  Outputs<T, Tiles> conditions;
  load_conditions(conditions, p, stage, t, turn.number, rows, block);
  multiply<InShared>(sums, ahead, turn.columns, next, block.cache, block.offsets + stage.place * block.rows, block.rows);
  Outputs<T, Tiles> outputs;
  for_outputs(outputs, [&](float2& out, int tile, int half, int right) {
    out = sum_of(sum_at(sums, tile, half, right), conditions.of[tile][half][right]);
    out = {settled(out.x), settled(out.y)};  // behind the loads of weights it would wait for them with the conditions
  });
  load_next(ahead, next);
  finish_outputs(stage, outputs, places, rows, turn.number, block);
}

// Computes this warp's turns in a section, stages first .. end - 1, for the block of rows that begins with `row`. is_last: no
// rows follow. turn: its next, here or in another section.
template <bool InShared, typename T>
__device__ void run_columns(const Program& p, int first, int end, int row, const Tensors& t, bool is_last,
                            const ThreadBlock<T>& block, Ahead<T>& ahead, Turn& turn) {
  for (int before = first - 1; before < turn.stage && turn.stage < end;) {
    const Turn now = turn;
    const Stage stage = block.stages[now.stage];
    const int rows = block.reached[now.stage].rows - row;
    turn = turn_behind(now, is_last, t, block);
    ColumnWeights next = turn.columns;
    if (next.from == now.columns.from && next.tiles <= kAhead<T>) next.tiles = 0;  // they are at hand
    if (rows > Shape<T>::rows)
      compute_columns<InShared, 2>(p, stage, t, rows, now, next, block, ahead);
    else if (rows > 0)
      compute_columns<InShared, 1>(p, stage, t, rows, now, next, block, ahead);
    before = turn.number > now.number ? now.stage - 1 : now.stage;
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
