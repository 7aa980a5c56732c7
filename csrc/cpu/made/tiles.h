// Tiles of samples, as threads take them.
#pragma once

#include <algorithm>

#include <torch/csrc/stable/ops.h>

#include "../masked_linear/units.h"

namespace vlae::made {

using masked_linear::kThreadWork;

constexpr int64_t kRowGroup = 16;   // samples: tiles begin at multiples, and sums over the batch are made of sums of so many
constexpr int64_t kMostRows = 128;  // of a tile
constexpr int64_t kMostPacked = 1 << 19;  // floats: more than these threads would send one another through memory
constexpr int64_t kMostKept = 1 << 22;    // floats that a thread keeps from call to call

// Tiles of a batch, all of nearly one size, as many as give every thread the same number of them.
class Tiles {
 public:
  Tiles(int64_t batch, double work) : batch_(batch), groups_((batch + kRowGroup - 1) / kRowGroup) {
    const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), 1 + static_cast<int64_t>(work / kThreadWork));
    const int64_t in_turn = (batch + threads * kMostRows - 1) / (threads * kMostRows);
    workers_ = std::min(threads, groups_);
    count_ = std::min(threads * in_turn, groups_);
    enough_ = groups_ >= threads && (workers_ > 1 || count_ == 1);
  }

  // False where threads with work would have no tile, or one thread would have several: layer by layer is then as fast or
  // faster, panels shared or packed once.
  bool enough() const { return enough_; }
  int64_t count() const { return count_; }
  int64_t workers() const { return workers_; }
  int64_t most_rows() const { return std::min(batch_, (groups_ + count_ - 1) / count_ * kRowGroup); }
  int64_t first(int64_t tile) const { return std::min(batch_, groups_ * tile / count_ * kRowGroup); }
  int64_t rows(int64_t tile) const { return first(tile + 1) - first(tile); }

 private:
  int64_t batch_, groups_, count_, workers_;
  bool enough_;
};

}  // namespace vlae::made
