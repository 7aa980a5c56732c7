#include "tiling.h"

#include <algorithm>
#include <bit>

namespace vlae::cuda::pixelcnn_sample {

namespace {

constexpr int64_t kMaxTile = (int64_t{1} << 31) - 1;  // reached by 32-bit offsets

int64_t quotient_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Memory of a thread block beside its activations: entries, stages, the waves that they have reached in three steps, two
// tables of places, and constants.
int64_t work_bytes(const Program& p, int64_t rows, int64_t places) {
  const int64_t reached = 3 * (p.n_stages + 1) * int64_t{kReachedBytes};
  const int64_t words = 2 * places * rows + 4;
  return words * static_cast<int64_t>(sizeof(int32_t)) + p.n_entries * int64_t{kEntryBytes} + reached +
         p.n_stages * static_cast<int64_t>(sizeof(Stage));
}

// Values of a sample that are kept in shared memory with its activations; those of single pixels are not.
int64_t conditions_of(const Program& p) { return p.cond_pixels == 1 ? p.cond_columns : 0; }

// Samples whose activations fit into shared memory beside that.
int64_t fitting(const Program& p, int64_t rows, int64_t places, const Limits& limits) {
  const int64_t left = (limits.shared_bytes - work_bytes(p, rows, places)) / format_of(p.dtype).bytes;
  const int64_t conditions = conditions_of(p) * static_cast<int64_t>(sizeof(float)) / format_of(p.dtype).bytes;
  return std::max<int64_t>(0, left - p.zero_size) / (p.sample_size + conditions);
}

}  // namespace

int64_t least_shared_bytes(const Program& p) { return work_bytes(p, kMinRows, p.most_places); }

// Gives every processor a tile before one gets a larger tile; where a processor gets several in turn, they are as equal as
// whole samples can be. Activations in global memory are worse than few rows at a time.
Tiling tiling_of(const Program& p, int64_t batch, const Limits& limits) {
  int64_t samples = std::max<int64_t>(1, quotient_up(batch, limits.processors)), places = p.most_places;
  const int64_t most_rows = p.dtype == Dtype::float32 || samples * p.rows <= kMaxRows / 2 ? kMaxRows / 2 : kMaxRows;
  int64_t rows = most_rows;
  while (rows > kMinRows && fitting(p, rows, places, limits) == 0) rows /= 2;
  const bool shared = fitting(p, rows, places, limits) > 0;
  if (shared) {
    const int64_t rounds = quotient_up(samples, fitting(p, rows, places, limits));
    samples = quotient_up(batch, rounds * limits.processors);
  } else {  // enough samples to fill the rows
    for (rows = most_rows; rows > kMinRows && work_bytes(p, rows, places) > limits.shared_bytes;) rows /= 2;
    const int64_t full = quotient_up(most_rows, p.rows.value), most = (kMaxTile - p.zero_size) / p.sample_size;
    samples = std::min({samples, full, most});
  }
  while (rows > kMinRows && samples * p.rows <= rows / 2) rows /= 2;
  const bool whole = shared && samples * p.rows <= rows && samples <= fitting(p, rows, p.places, limits);
  if (whole) places = p.places;
  const int64_t size = p.zero_size + samples * p.sample_size, blocks = quotient_up(batch, samples);
  const int64_t conditions = shared ? samples * conditions_of(p) : 0;
  const int64_t kept = (shared ? size * format_of(p.dtype).bytes : 0) + conditions * static_cast<int64_t>(sizeof(float));
  return {.samples = divisor_of(samples),
          .left = divisor_of(batch - (blocks - 1) * samples),
          .rows = static_cast<int32_t>(rows),
          .row_bits = std::countr_zero(static_cast<uint64_t>(rows)),
          .blocks = static_cast<int32_t>(blocks),
          .shared_bytes = static_cast<int32_t>(work_bytes(p, rows, places) + kept),
          .entries = p.n_entries,
          .stages = p.n_stages,
          .places = static_cast<int32_t>(places),
          .is_whole = whole,
          .conditions = static_cast<int32_t>(conditions),
          .global_size = shared ? 0 : size};
}

}  // namespace vlae::cuda::pixelcnn_sample
