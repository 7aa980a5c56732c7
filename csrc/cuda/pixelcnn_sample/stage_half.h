// A stage of 16-bit dtypes: a warp computes 16 columns of a block of rows over all products, so that no sums are exchanged and
// one barrier a block of rows is enough. A lane has both columns of a gate.
#pragma once

#include "multiply_half.h"
#include "output.h"

namespace vlae::cuda::pixelcnn_sample {

__device__ inline int lane_of() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp_of() { return static_cast<int>(threadIdx.x) / 32; }

// This warp's columns number `pair` of a stage: none behind the last.
__device__ inline PairWeights columns_of(const Stage& stage, int pair, const void* packed) {
  const int pairs = stage.columns / 16;
  if (pair >= pairs || stage.groups == 0) return {nullptr, 0, 0};
  return {static_cast<const uint4*>(packed) + stage.weight + pair * 32 + lane_of(), pairs * 32, stage.groups};
}

// What a lane adds to its sums: [tile of 16 rows][half of them][tile of 8 columns]; 0 without a condition.
template <int Tiles>
struct Conditions {
  float2 of[Tiles][2][2] = {};
};

// A lane's row of half a tile of rows, and its first column; cf. multiply_matrices.
__device__ inline int row_of(int tile, int half) { return 16 * tile + 8 * half + lane_of() / 4; }
__device__ inline int first_column(int pair) { return 16 * pair + lane_of() % 4 * 2; }

template <int Tiles, typename T>
__device__ inline void load_conditions(Conditions<Tiles>& conditions, const Program& p, const Stage& stage, const Tensors& t,
                                       int pair, int rows, const ThreadBlock<T>& block) {
  if (stage.cond < 0) return;
  const float* from = t.cond + stage.cond + first_column(pair);
  const int64_t start = static_cast<int64_t>(block.first_sample) * p.cond_pixels;
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = row_of(tile, half);
      if (row >= rows) continue;
      const float* at = from + (start + place_of(stage, kCondition, row, block)) * p.cond_columns;
      conditions.of[tile][half][0] = __ldg(reinterpret_cast<const float2*>(at));
      conditions.of[tile][half][1] = __ldg(reinterpret_cast<const float2*>(at + 8));
    }
}

// A lane's outputs: [tile of 16 rows][half of them][tile of 8 columns], of two columns; x alone where they make one channel.
template <int Tiles>
struct Outputs {
  float2 of[Tiles][2][2];
};

template <int Tiles, typename Change>
__device__ inline void for_outputs(Outputs<Tiles>& outputs, const Change& change) {
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int right = 0; right < 2; ++right) change(outputs.of[tile][half][right], tile, half, right);
}

// One output after the other passes the same code.
template <int Tiles>
__device__ inline void activate_in_turn(Activation activation, Outputs<Tiles>& outputs) {
#pragma unroll 1
  for (int turn = 0; turn < 8 * Tiles; ++turn) {
    float x = 0;
    for_outputs(outputs, [&](float2& out, int tile, int half, int right) {
      const int at = 8 * tile + 4 * half + 2 * right;
      x = turn == at ? out.x : turn == at + 1 ? out.y : x;
    });
    x = activate_in_stage(activation, x);
    for_outputs(outputs, [&](float2& out, int tile, int half, int right) {
      const int at = 8 * tile + 4 * half + 2 * right;
      out = {turn == at ? x : out.x, turn == at + 1 ? x : out.y};
    });
  }
}

__device__ inline float gate_fast(const float2& x) { return times_sigmoid_fast(tanh_fast(x.x), x.y); }

template <int Tiles>
__device__ inline void activate_outputs(Activation activation, Outputs<Tiles>& outputs) {
  if (activation == Activation::gate)
    for_outputs(outputs, [](float2& out, int, int, int) { out.x = gate_fast(out); });
  else if (activation == Activation::glu)
    for_outputs(outputs, [](float2& out, int, int, int) { out.x = times_sigmoid_fast(out.x, out.y); });
  else if (is_short(activation))
    for_outputs(outputs, [&](float2& out, int, int, int) {
      out = {activate_fast(activation, out.x), activate_fast(activation, out.y)};
    });
  else
    activate_in_turn(activation, outputs);
}

// Where a lane writes: [tile of 16 rows][half of them].
template <int Tiles>
struct Places {
  int of[Tiles][2];
};

// Activates a lane's outputs and writes them: those of plain stages without a branch at each.
template <int Tiles, typename T>
__device__ inline void finish_outputs(const Stage& stage, Outputs<Tiles>& outputs, const Places<Tiles>& places, int rows,
                                      int pair, const ThreadBlock<T>& block) {
  const int channels = stage.channels, first = first_column(pair);
  const bool pairs = is_pair(stage.activation);
  const auto put = [&](int tile, int half, int channel, float out) {
    const T value = from_float<T>(out);
    if (row_of(tile, half) < rows && channel < channels) block.cache[places.of[tile][half] + channel] = value;
  };
  if (stage.is_plain && stage.activation == Activation::gate) {
    for_outputs(outputs, [&](const float2& out, int tile, int half, int right) {
      put(tile, half, first / 2 + 4 * right, gate_fast(out));
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
    if (is_any && channel < channels) write_output(stage, row_of(tile, half), places.of[tile][half], channel, out, block);
  };
  for_outputs(outputs, [&](const float2& out, int tile, int half, int right) {
    const int column = first + 8 * right;
    write(row_of(tile, half) < rows, tile, half, pairs ? column / 2 : column, out.x);
    write(row_of(tile, half) < rows && !pairs, tile, half, column + 1, out.y);
  });
}

template <bool InShared, int Tiles, typename T>
__device__ void compute_columns(const Program& p, const Stage& stage, const Tensors& t, int rows, int pair,
                                const PairWeights& columns, const PairWeights& next, const ThreadBlock<T>& block,
                                Ahead& ahead) {
  const T* packed = static_cast<const T*>(t.packed) + 8 * static_cast<int64_t>(stage.bias) + first_column(pair);
  const float* kept = block.biases ? block.biases + stage.first_bias + first_column(pair) : nullptr;
  Sums<Tiles> sums = {};
#pragma unroll
  for (int right = 0; right < 2; ++right) {
    const float2 bias = bias_of<float2>(kept ? kept + 8 * right : nullptr, packed + 8 * right);
#pragma unroll
    for (int tile = 0; tile < Tiles; ++tile)
      for (int half = 0; half < 2; ++half)
        sums.of[0][tile][right][2 * half] = bias.x, sums.of[0][tile][right][2 * half + 1] = bias.y;
  }
  Conditions<Tiles> conditions;
  load_conditions(conditions, p, stage, t, pair, rows, block);
  Places<Tiles> places;
#pragma unroll
  for (int tile = 0; tile < Tiles; ++tile)
    for (int half = 0; half < 2; ++half)
      places.of[tile][half] = place_of(stage, kOut, row_of(tile, half) & (block.rows - 1), block);
  multiply<InShared>(sums, ahead, columns, block.cache, block.offsets, block.rows);
  Outputs<Tiles> outputs;
  for_outputs(outputs, [&](float2& out, int tile, int half, int right) {
    const float *even = sums.of[0][tile][right] + 2 * half, *odd = sums.of[1][tile][right] + 2 * half;
    out = sum_of(sum_of(float2{even[0], even[1]}, float2{odd[0], odd[1]}), conditions.of[tile][half][right]);
    out = {settled(out.x), settled(out.y)};  // behind the loads of weights it would wait for them with the conditions
  });
  load_next(ahead, next);
  finish_outputs(stage, outputs, places, rows, pair, block);
}

// What a warp computes of a block of rows: its columns, and those that come behind its last.
struct Turn {
  PairWeights columns, behind;
};

// is_last: the last rows of their wave.
template <typename T>
__device__ inline Turn turn_of(const Stage& stage, const Tensors& t, bool is_last, const ThreadBlock<T>& block) {
  const PairWeights columns = columns_of(stage, warp_of(), t.packed);
  return {columns, is_last ? columns_of(block.stages[stage.next], warp_of(), t.packed) : columns};
}

// Computes a warp's columns of a block of rows, which have been located. A warp that has none looks ahead.
template <bool InShared, typename T>
__device__ void run_pairs(const Program& p, const Stage& stage, const Tensors& t, int rows, Turn turn,
                          const ThreadBlock<T>& block, Ahead& ahead) {
  if (!turn.columns.from) look_ahead(ahead, turn.behind);
  const int pairs = stage.columns / 16;
  for (int pair = warp_of(); pair < pairs; pair += kWarps) {
    const PairWeights then = pair + kWarps < pairs ? columns_of(stage, pair + kWarps, t.packed) : turn.behind;
    PairWeights next = then;
    if (next.from == turn.columns.from && next.groups <= kAhead) next.groups = 0;  // they are at hand
    if (rows > 16)
      compute_columns<InShared, 2>(p, stage, t, rows, pair, turn.columns, next, block, ahead);
    else
      compute_columns<InShared, 1>(p, stage, t, rows, pair, turn.columns, next, block, ahead);
    turn.columns = then;
  }
}

}  // namespace vlae::cuda::pixelcnn_sample
