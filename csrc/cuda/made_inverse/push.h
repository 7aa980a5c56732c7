// Finds the values of a block, one event after the other, by one warp for one sample.
//
// The chain from a value to the next is a shuffle, an activation and a multiplication in registers: a lane holds the sums of
// its four rows, the lane that has a sum complete hands it to all, and each adds its products with the value to its own sums.
// No lane waits for a sum over lanes, and nothing of the chain goes through global memory: weights and events are in shared
// memory.
#pragma once

#include "../../pixelcnn_sample/draw.h"
#include "../activate.h"
#include "four.h"
#include "tile.h"

namespace vlae::cuda::made_inverse {

// log(d eps / d x) of the transforms other than exp, whose caller does without; NaN for exp and for draws.
__device__ inline float log_slope(MadeScale scale, float raw) {
  switch (scale) {
    case MadeScale::exp:
    case MadeScale::bernoulli: break;
    case MadeScale::exp_slope: return raw;
    case MadeScale::clipped_exp: return raw / (1 + fabsf(raw) / kLogOfLeast);
    case MadeScale::softplus: return logf(fmaxf(raw, 0.0f) + log1pf(expf(-fabsf(raw))) + kLeastSlope);
    case MadeScale::sigmoid: return logf(1 / (1 + expf(-raw - 2)) + kLeastSlope);
  }
  return nanf("");
}

// The log-determinant of a sample, which its warp keeps from block to block, the same in all lanes.
struct LogDet {
  float sum = 0, lost = 0;

  // Carries the rounding error along (Kahan).
  __device__ void add(float log_slope) {
    const float term = log_slope - lost, total = sum + term;
    lost = (total - sum) - term;
    sum = total;
  }
};

template <typename T>
class Push {
 public:
  // sums: one per row of the block, for this warp's sample.
  __device__ Push(const Walk& walk, const Batch& batch, const Tile<T>& tile, const Block& block, int quads, const float* sums)
      : batch_(batch),
        lane_(threadIdx.x % kLanes),
        sample_(threadIdx.x / kLanes),
        is_relu_(batch.activation == Activation::relu),
        is_long_(!is_relu_ && batch.activation != Activation::none) {
    x_ = tile.x + static_cast<int64_t>(sample_) * tile.dim;
    known_ = tile.known + static_cast<int64_t>(sample_) * tile.values;
    if (lane_ >= quads) return;
    const Quad& quad = walk.quads[block.quad + lane_];
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r) {
      sums_[r] = sums[lane_ * kLaneRows + r];
      const bool is_shift = quad.layer == batch.outputs && 0 <= quad.units[r] && quad.units[r] < tile.dim;
      if (is_shift) eps_[r] = tile.eps_of(sample_, quad.units[r]);
    }
  }

  // weights: the fours of the event. Most events are of one value, which is found without a branch for each of a lane's rows.
  __device__ void run(const Event& event, const Four<T>* weights, LogDet& log_det) {
    const int first = event.row % kLaneRows, owner = event.row / kLaneRows, reader = lane_ - event.next_row / kLaneRows;
    const bool reads = 0 <= reader && reader < event.fours;
    if (event.count == 1) {
      Four<T> w = {};
      if (reads) w = weights[reader];
      push(event.place, event.dimension < 0 ? unit(first, owner) : dimension(first, owner, event.dimension, log_det), w, reads);
      return;
    }
    Four<T> w[kLaneRows];
    float values[kLaneRows];
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r)
      if (reads && first <= r && r < first + event.count) w[r] = weights[(r - first) * event.fours + reader];
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r)
      if (first <= r && r < first + event.count) values[r] = unit(r, owner);
#pragma unroll
    for (int r = 0; r < kLaneRows; ++r)
      if (first <= r && r < first + event.count) push(event.place + r - first, values[r], w[r], reads);
  }

 private:
  // Adds the products with a value to the sums of the lanes that read it.
  __device__ void push(int place, float value, const Four<T>& w, bool reads) {
    if (lane_ == 0) known_[place] = value;
    if (!reads) return;
#pragma unroll
    for (int i = 0; i < kLaneRows; ++i) sums_[i] = fmaf(to_float(w.at[i]), value, sums_[i]);
  }

  // Number `row` of a lane's, without a branch.
  __device__ static float at(const float (&of)[kLaneRows], int row) {
    const float low = row & 1 ? of[1] : of[0], high = row & 1 ? of[3] : of[2];
    return row & 2 ? high : low;
  }

  // Most activations are relu, or none: without a branch at each value.
  __device__ float unit(int row, int owner) const {
    const float x = __shfl_sync(~0u, at(sums_, row), owner);
    if (is_long_) return activate(batch_.activation, x);
    return is_relu_ && x < 0 ? 0.0f : x;
  }

  // Stores x of the dimension. Returns it as it was stored, which is what other units see.
  __device__ float dimension(int row, int owner, int index, LogDet& log_det) const {
    const float shift = __shfl_sync(~0u, at(sums_, row), owner), eps = __shfl_sync(~0u, at(eps_, row), owner);
    float x = shift + eps;
    if (batch_.scale == MadeScale::bernoulli) {
      x = draw_bernoulli(eps, shift, 1.0) ? 1.0f : 0.0f;
      const float logit = x > 0 ? shift : -shift;
      log_det.add(fminf(logit, 0.0f) - log1pf(expf(-fabsf(logit))));
    } else if (batch_.affine) {
      const float raw = __shfl_sync(~0u, at(sums_, row + 1), owner);
      const bool plain = batch_.scale == MadeScale::exp;
      const float log = plain ? -raw : log_slope(batch_.scale, raw);
      x = plain ? fmaf(expf(raw), eps, shift) : (eps - shift) * expf(-log);
      log_det.add(log);
    }
    const T stored = from_float<T>(x);
    if (lane_ == 0) x_[index] = stored;
    return to_float(stored);
  }

  const Batch& batch_;
  int lane_, sample_;
  bool is_relu_, is_long_;
  T* x_;
  float* known_;
  float sums_[kLaneRows] = {}, eps_[kLaneRows] = {};
};

}  // namespace vlae::cuda::made_inverse
