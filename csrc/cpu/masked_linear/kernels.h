// Functions that the files of one instruction set share.
#pragma once

#include "../vec.h"
#include "layer.h"

namespace vlae::masked_linear::VLAE_ISA {

using namespace vlae::VLAE_ISA;

// count numbers at the places order[i], order[i + 1] ... of a row, or where order is nullptr at i, i + 1 ...
inline Vec load_at(const float* row, const int32_t* order, int64_t i, int64_t count) {
  if (!order) return load_some(row + i, count);
  float lanes[kLanes] = {};
  for (int64_t lane = 0; lane < count; ++lane) lanes[lane] = row[order[i + lane]];
  return load(lanes);
}

inline void store_at(float* row, const int32_t* order, int64_t i, Vec v, int64_t count) {
  if (!order) return store_some(row + i, v, count);
  float lanes[kLanes];
  store(lanes, v);
  for (int64_t lane = 0; lane < count; ++lane) row[order[i + lane]] = lanes[lane];
}

void slopes(const Slopes& s, const Columns& columns) noexcept;

}  // namespace vlae::masked_linear::VLAE_ISA
