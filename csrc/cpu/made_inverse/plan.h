// A MADE with its units in the order of their degrees, so that a unit of degree d reads a prefix of the layer before: plain
// data that the kernels of every instruction set share. No inline functions and no containers here: the per-instruction-set
// files must not instantiate shared code.
#pragma once

#include <cstdint>

#include "../../activation.h"
#include "../../made_inverse/scale.h"
#include "../storage.h"

namespace vlae::made_inverse {

// The units are computed in steps. The last D steps are the degrees 0 .. D - 1; each ends with a dimension of x. The ones
// before them are the negative degrees that some hidden unit has: such a unit sees the bias, cond and its own kind alone.

// A layer's units that are ever read, sorted by degree.
struct MadeLayer {
  const void* const* rows;  // [units] weights in the order of the layer before, in the plan's storage
  const float* bias;        // [units]
  const int64_t* units;     // [units] where a unit is in the tensors
  const int64_t* ends;      // [steps] how many units are known once a step's inputs are, and its own units
};

// A dimension that is drawn among levels: the network is given the row of a table that belongs to the level, one number for
// each of its inputs, and puts out a logit for each level.
struct MadeVariable {
  int64_t index;  // where it is in the tensors
  int64_t levels, inputs;
  const float* table;  // [levels, inputs]
};

struct MadePlan {
  int64_t dim, params;  // D; 2 outputs per dimension (shift, log_scale) or 1 (shift); of variables their levels instead
  int64_t steps;
  int64_t n_layers;
  const MadeLayer* layers;        // [n_layers + 1], of which the first, the inputs, has `units` and `ends` alone
  const MadeVariable* variables;  // [dim] by degree, or nullptr where the inputs are x itself
  Activation activation;
  MadeScale scale;
  Storage storage;
  int64_t n_blocks;
  const int64_t* blocks;   // [n_blocks + 1] first step of each block of steps
  const int64_t* offsets;  // [n_layers + 1] floats per lane before a layer's activations
  const int64_t* sums;     // likewise before its sums: the same place, unless activations are bfloat16
  int64_t floats;          // of a tile, per lane
};

// Samples first .. first + count - 1; scratch is `floats` x vecs x lanes, aligned to 64 bytes.
struct MadeTile {
  const void* eps;    // [B, D] in the plan's storage
  const float* cond;  // [B, H] or nullptr
  void* x;            // as eps
  float* log_det;     // [B]
  int64_t cond_size;  // H
  int64_t first, count;
  int vecs;  // vectors of samples, 1 to kMadeMaxVecs
  float* scratch;
};

constexpr int kMadeMaxVecs = 4;

struct Kernels {
  int lanes;
  void (*run_tile)(const MadePlan&, const MadeTile&) noexcept;
};

}  // namespace vlae::made_inverse
