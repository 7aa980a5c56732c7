#include "tiling.h"

#include <algorithm>
#include <bit>

namespace vlae::cuda::pixelcnn_sample {

namespace {

constexpr int64_t kMaxTile = (int64_t{1} << 31) - 1;  // reached by 32-bit offsets

// Memory of a thread block beside its activations: two tables of offsets and every warp's sums.
int64_t work_bytes(const Program& p, int64_t rows) {
  return (2 * (p.most_taps + kRowEntries) + kWarps * kMaxColumns) * rows * static_cast<int64_t>(sizeof(float));
}

// Samples whose activations fit into shared memory beside that.
int64_t fitting(const Program& p, int64_t rows, const Limits& limits) {
  const int64_t left = (limits.shared_bytes - work_bytes(p, rows)) / format_of(p.dtype).bytes;
  return std::max<int64_t>(0, left - p.zero_size) / p.sample_size;
}

}  // namespace

// Gives every processor a tile before one gets a larger tile. Activations in global memory are worse than few rows at a time.
Tiling tiling_of(const Program& p, int64_t batch, const Limits& limits) {
  int64_t samples = std::max<int64_t>(1, (batch + limits.processors - 1) / limits.processors), rows = kMaxRows;
  while (rows > kMinRows && fitting(p, rows, limits) == 0) rows /= 2;
  const bool shared = fitting(p, rows, limits) > 0;
  if (shared) {
    samples = std::min(samples, fitting(p, rows, limits));
  } else {  // enough samples to fill the rows
    for (rows = kMaxRows; rows > kMinRows && work_bytes(p, rows) > limits.shared_bytes;) rows /= 2;
    const int64_t full = (kMaxRows + p.rows - 1) / p.rows, most = (kMaxTile - p.zero_size) / p.sample_size;
    samples = std::min({samples, full, most});
  }
  const int64_t size = p.zero_size + samples * p.sample_size;
  return {.samples = static_cast<int32_t>(samples),
          .rows = static_cast<int32_t>(rows),
          .row_bits = std::countr_zero(static_cast<uint64_t>(rows)),
          .blocks = static_cast<int32_t>((batch + samples - 1) / samples),
          .shared_bytes = static_cast<int32_t>(work_bytes(p, rows) + (shared ? size * format_of(p.dtype).bytes : 0)),
          .global_size = shared ? 0 : size};
}

}  // namespace vlae::cuda::pixelcnn_sample
