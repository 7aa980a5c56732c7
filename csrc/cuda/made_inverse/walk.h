// How the kernels walk a MADE: every unit in the order in which it can be known, cut into blocks. Plain data on the GPU.
//
// The order is by degree; within a degree by layer, and last the dimension of x that its outputs give. Layers are numbered
// from the inputs, 0, to the outputs. A block is a run of units whose rows of weights fill the lanes of a warp, four to a
// lane. What its rows take from the units before the block is a matrix product. What they take from one another is pushed:
// as soon as a value is known, each lane adds its products with it to the rows that it holds.
#pragma once

#include <cstdint>

namespace vlae::cuda {

constexpr int kLanes = 32;
constexpr int kLaneRows = 4;
constexpr int kRows = kLanes * kLaneRows;  // of a block
constexpr int kMaxLayers = 512;  // of all steps

// The rows of a lane, all of one layer. Packed weights are counted in fours: of each row its bias, then per value read its weight.
struct alignas(16) Quad {
  int32_t weights;
  int32_t reads, count;      // the values that are known before the block, of the layer before
  int32_t layer;
  int32_t units[kLaneRows];  // where they are in their layer; -1: there is none
};

// What becomes known at once: up to four units of a layer and a degree, or a dimension.
struct alignas(16) Event {
  int32_t row, count;     // of the block, all in one lane: a row to a unit; of a dimension the shift, then the log_scale
  int32_t dimension;      // of x, or -1
  int32_t place;          // of the first value among a sample's known values
  int32_t weights;        // [values][fours of rows]: what the values are multiplied by
  int32_t next_row;       // the first row that reads them
  int32_t fours;          // lanes, from that of next_row on, that have such rows
  int32_t block;
};

// Its quads and events go on to those of the next block; the last entry of the table is the end of both.
struct Block {
  int32_t quad, event;
  int32_t weights, fours;  // of all its events
};

struct Walk {
  const Quad* quads;
  const Event* events;
  const Block* blocks;
  const int32_t* order;  // of every known value, where its unit is in its layer
  int32_t n_blocks;
};

}  // namespace vlae::cuda
