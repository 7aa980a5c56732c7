// The waves of a program: which pixels share j + slope * i, and which of the waves are not empty.
#include "program.h"

#include <algorithm>

#include "../../pixelcnn_sample/waves.h"

namespace vlae::pixelcnn_sample {

Wave wave_at(const Program& p, int64_t index) {
  const WaveRows<int64_t> rows = wave_rows(p.height, p.width, p.slope, index);
  return {index, rows.top, rows.count};
}

int64_t next_wave(const Program& p, int64_t index) {
  if (index >= p.steps) return INT64_MAX;
  if (index <= 0) return 0;
  // Where slope > width, a row's last wave and the next row's first are apart.
  if (p.slope <= p.width || index % p.slope < p.width) return index;
  return (index / p.slope + 1) * p.slope;
}

int64_t next_step(const Program& p, int64_t step) {
  int64_t next = next_wave(p, step);
  for (int64_t s = 0; s < p.n_stages && next > step; ++s) {
    const int64_t wave = next_wave(p, step + p.stages[s].lead);
    if (wave != INT64_MAX) next = std::min(next, wave - p.stages[s].lead);
  }
  return next;
}

}  // namespace vlae::pixelcnn_sample
