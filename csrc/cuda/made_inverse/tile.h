// The samples of a thread block.
#pragma once

#include "../numbers.h"
#include "kernel.h"

namespace vlae::cuda {

template <typename T>
struct Tile {
  const T *eps, *cond;  // of the first sample
  T *x, *log_det;
  float* known;
  int samples, dim, cond_size, values;

  __device__ Tile(const Batch& batch, int most) {
    const int64_t first = static_cast<int64_t>(blockIdx.x) * most;
    samples = static_cast<int>(min(static_cast<int64_t>(most), batch.size - first));
    dim = batch.dim, cond_size = batch.cond_size, values = batch.values;
    eps = static_cast<const T*>(batch.eps) + first * dim;
    cond = batch.cond ? static_cast<const T*>(batch.cond) + first * cond_size : nullptr;
    x = static_cast<T*>(batch.x) + first * dim;
    log_det = static_cast<T*>(batch.log_det) + first;
    known = batch.known + first * values;
  }

  // What a row of a quad sees of a sample's condition.
  __device__ float condition(const Quad& quad, int row, int sample) const {
    const bool sees = cond && quad.layer == 1 && quad.units[row] >= 0;
    return sees ? to_float(cond[static_cast<int64_t>(sample) * cond_size + quad.units[row]]) : 0.0f;
  }
};

}  // namespace vlae::cuda
