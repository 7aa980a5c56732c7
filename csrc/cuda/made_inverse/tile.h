// The samples of a thread block in one of the steps, and where their values are.
#pragma once

#include "../conversions.h"
#include "kernel.h"

namespace vlae::cuda::made_inverse {

template <typename T>
struct Tile {
  const T *eps, *cond;  // each pointer is at the first sample
  T *x, *log_det;
  float* known;
  int samples, dim, values;
  int64_t cond_stride;
  bool reversed;  // eps is the x of the step before, whose dimensions are reversed

  __device__ Tile(const Batch& batch, int most, int step) {
    const int64_t first = static_cast<int64_t>(blockIdx.x) * most;
    samples = static_cast<int>(min(static_cast<int64_t>(most), batch.size - first));
    dim = batch.dim, values = batch.values, reversed = step > 0;
    const int64_t cond_size = batch.cond_size;
    cond_stride = batch.steps * cond_size;
    x = static_cast<T*>(batch.x) + (step * batch.size + first) * dim;
    eps = reversed ? x - batch.size * dim : static_cast<const T*>(batch.eps) + first * dim;
    cond = batch.cond ? static_cast<const T*>(batch.cond) + first * cond_stride + step * cond_size : nullptr;
    log_det = static_cast<T*>(batch.log_det) + first;
    known = batch.known + first * values;
  }

  __device__ float eps_of(int sample, int dimension) const {
    return to_float(eps[static_cast<int64_t>(sample) * dim + (reversed ? dim - 1 - dimension : dimension)]);
  }

  // The condition of a sample that a row of a quad adds to its sum.
  __device__ float condition(const Quad& quad, int row, int sample) const {
    const bool sees = cond && quad.layer == 1 && quad.units[row] >= 0;
    return sees ? to_float(cond[sample * cond_stride + quad.units[row]]) : 0.0f;
  }
};

}  // namespace vlae::cuda::made_inverse
