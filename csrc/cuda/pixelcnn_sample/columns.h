// A warp's 16 columns of a stage: their weights, and which lane has which outputs.
#pragma once

#include "../device.h"
#include "program.h"

namespace vlae::cuda::pixelcnn_sample {

__device__ inline int lane_of() { return static_cast<int>(threadIdx.x) % 32; }
__device__ inline int warp_of() { return static_cast<int>(threadIdx.x) / 32; }

// 16-byte parts of a tile of weights, of which a lane has every 32nd.
template <typename T>
constexpr int kLoads = kTile* kTile * sizeof(T) / sizeof(uint4);

// 16 columns of a stage over all of its tiles of 16 products, which lie behind each other.
struct ColumnWeights {
  int at;     // the first part, of all packed ones
  int tiles;  // 0: none
  int bias;   // the first of their biases, in units of 8 bytes
};

// What matrix instructions give a lane of some rows x 16 columns: in 2 rows, number 0 and 1, `pairs` times two neighbouring
// columns, 8 apart.
template <typename T>
struct Shape {
  static constexpr int rows = 16, pairs = 2, biases = 4;  // biases: parts of those of 16 columns
  __device__ static int row(int number) { return lane_of() / 4 + 8 * number; }
  __device__ static int column() { return lane_of() % 4 * 2; }
  __device__ static int bias() { return lane_of() % 4; }
};
template <>
struct Shape<float> {
  static constexpr int rows = 8, pairs = 1, biases = 8;
  __device__ static int row(int number) { return lane_of() % 4 * 2 + number; }
  __device__ static int column() { return lane_of() / 4 * 2; }
  __device__ static int bias() { return lane_of() / 4; }
};

// The weights of the first tiles of some columns and their biases, which are loaded before they are due.
template <typename T>
struct Ahead;

// This lane's parts of packed weights.
template <typename T>
__device__ inline const uint4* weights_from(const void* packed, const ColumnWeights& columns) {
  return static_cast<const uint4*>(packed) + columns.at + lane_of();
}
template <typename T>
__device__ inline void load_bias(uint2& bias, const void* packed, const ColumnWeights& columns) {
  load_if(bias, static_cast<const uint2*>(packed) + columns.bias + Shape<T>::bias(), columns.tiles > 0);
}

// Up to how many tiles stay at hand when they have been multiplied.
template <typename T>
constexpr int kAhead = 24;
template <>
constexpr int kAhead<float> = 10;

// Where a lane reads the other factors, of Tiles tiles of rows: the next ones, found before they are read.
template <typename T, int Tiles>
struct FactorsAt;

// A lane's sums of Tiles x Shape<T>::rows rows, as matrix instructions have them.
template <typename T, int Tiles>
struct Sums;

}  // namespace vlae::cuda::pixelcnn_sample
