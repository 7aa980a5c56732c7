// A warp's 16 columns of a stage: their weights, and which lane has which outputs.
#pragma once

#include "../device.h"
#include "program.h"

namespace vlae::cuda::pixelcnn_sample {

__device__ inline int lane_of() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp_of() { return static_cast<int>(threadIdx.x) / 32; }

// 16 columns of a stage over all of its tiles of 16 products. from: this lane's part of the first; nullptr for none.
struct ColumnWeights {
  const uint4* from = nullptr;
  int step, tiles;  // step: from a tile to the next
};

// What matrix instructions give a lane of some rows x 16 columns: in 2 rows, number 0 and 1, `pairs` times two neighbouring
// columns, 8 apart.
template <typename T>
struct Shape {
  static constexpr int rows = 16, pairs = 2;
  __device__ static int row(int number) { return lane_of() / 4 + 8 * number; }
  __device__ static int column() { return lane_of() % 4 * 2; }
};
template <>
struct Shape<float> {
  static constexpr int rows = 8, pairs = 1;
  __device__ static int row(int number) { return lane_of() % 4 * 2 + number; }
  __device__ static int column() { return lane_of() / 4 * 2; }
};

// The weights of the first tiles of some columns, which are loaded before they are due.
template <typename T>
struct Ahead;

// Up to how many tiles stay at hand when they have been multiplied.
template <typename T>
constexpr int kAhead = 20;
template <>
constexpr int kAhead<float> = 10;

// A lane's sums of Tiles x Shape<T>::rows rows, as matrix instructions have them.
template <typename T, int Tiles>
struct Sums;

}  // namespace vlae::cuda::pixelcnn_sample
