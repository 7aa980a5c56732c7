// The walk of a MADE: every unit in the order in which it can be known, cut into blocks. Plain data on the GPU.
//
// The order is by degree; within a degree by layer, and last the dimension of x that its outputs give. Layers are numbered
// from the inputs, 0, to the outputs. A block is a run of units whose rows of weights fill the lanes of a warp, four to a
// lane. Its rows read the units before the block by a matrix product, and the units of the block as these become known: each
// lane adds the products with a new value to the rows that it holds.
#pragma once

#include <cstdint>

namespace vlae::cuda::made_inverse {

constexpr int kLanes = 32;
constexpr int kLaneRows = 4;
constexpr int kRows = kLanes * kLaneRows;  // in a block
constexpr int kMaxLayers = 512;            // in all steps together

// The four rows of a lane, all of one layer. Their packed weights are fours: the biases, then the weights of each value
// that the rows read.
struct alignas(16) Quad {
  int32_t weights;       // the first of its fours
  int32_t reads, count;  // values read: the first, how many. All are of the layer before, and known before the block
  int32_t layer;
  int32_t units[kLaneRows];  // place of each row in its layer; -1: there is no row
};

// Values that become known at once: up to four units of one layer and degree, or a dimension.
struct alignas(16) Event {
  int32_t row, count;  // one row of the block per value, all in one lane: the first, how many. A dimension's is its shift,
                       // and the row behind that its log_scale
  int32_t dimension;   // the dimension of x that becomes known, or -1
  int32_t place;       // place of the first value among the known values of a sample
  int32_t weights;     // the first of its fours, [values][fours]: the weights of the rows that read the values
  int32_t next_row;    // the first row that reads the values
  int32_t fours;       // lanes with such rows, from the lane of next_row on
  int32_t block;
};

// The beginning of a block. Its quads and events end where those of the next block begin; the table has an entry for the end.
struct Block {
  int32_t quad, event;
  int32_t weights, fours;  // the weights of all its events: the first four, how many
};

struct Walk {
  const Quad* quads;
  const Event* events;
  const Block* blocks;
  const int32_t* order;  // for every known value, the place of its unit in its layer
  int32_t n_blocks;
};

}  // namespace vlae::cuda::made_inverse
