// The masked layers of a step in the order in which the walk reads them. Weights of values that a row does not see become 0
// without being read: dead weights may be anything.
#pragma once

#include "four.h"

namespace vlae::cuda::made_inverse {

template <typename T>
__device__ T weight_at(const Layers& layers, int step, int layer, int unit, int input) {
  const T* weight = static_cast<const T*>(layers.weights[step * layers.per_step + layer - 1]);
  return weight[static_cast<int64_t>(unit) * layers.inputs[layer - 1] + input];
}

// Number i of a quad's fours: the biases of its rows, then their weights of the first value that they read, and so on.
template <typename T>
__device__ T number_of_quad(const Walk& walk, const Layers& layers, int step, const Quad& quad, int64_t i) {
  const int unit = quad.units[i % kLaneRows], value = static_cast<int>(i / kLaneRows) - 1;
  if (unit < 0) return from_float<T>(0);
  if (value < 0) return static_cast<const T*>(layers.biases[step * layers.per_step + quad.layer - 1])[unit];
  return weight_at<T>(layers, step, quad.layer, unit, walk.order[quad.reads + value]);
}

// Number i of an event's fours: the weights of its first value in each row that may read it, then of the second, and so on.
template <typename T>
__device__ T number_of_event(const Walk& walk, const Layers& layers, int step, const Event& event, int64_t i) {
  const int rows = event.fours * kLaneRows, value = static_cast<int>(i / rows);
  const int row = event.next_row / kLaneRows * kLaneRows + static_cast<int>(i % rows);
  const Quad& quad = walk.quads[walk.blocks[event.block].quad + row / kLaneRows];
  const int unit = quad.units[row % kLaneRows];
  if (unit < 0 || row < event.next_row) return from_float<T>(0);
  return weight_at<T>(layers, step, quad.layer, unit, walk.order[event.place + value]);
}

}  // namespace vlae::cuda::made_inverse
