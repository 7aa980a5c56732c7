// The waves of a program: which pixels share j + slope * i, and which of the waves are not empty.
#include "program.h"

#include <algorithm>

#include "../../pixelcnn_sample/waves.h"

namespace vlae::pixelcnn_sample {

Wave wave_at(const Program& p, const Sites& sites, int64_t index) {
  const auto [stride, row, column] = sites;
  const WaveRows<int64_t> rows =
      wave_rows_at(wave_rows(p.height, p.width, p.slope, index), p.slope, index, stride, row, column);
  return {index, rows.top, rows.count, rows.step};
}

namespace {

int64_t next_of_all(const Program& p, int64_t index) {
  if (index >= p.steps) return INT64_MAX;
  if (index <= 0) return 0;
  // Where slope > width, a row's last wave and the next row's first are apart.
  if (p.slope <= p.width || index % p.slope < p.width) return index;
  return (index / p.slope + 1) * p.slope;
}

}  // namespace

int64_t next_wave(const Program& p, const Sites& sites, int64_t index) {
  index = next_of_all(p, index);
  while (sites.stride > 1 && index < p.steps && wave_at(p, sites, index).pixels == 0) index = next_of_all(p, index + 1);
  return index;
}

int64_t next_step(const Program& p, int64_t step) {
  int64_t next = next_wave(p, kEverywhere, step);
  for (int64_t s = 0; s < p.n_stages && next > step; ++s) {
    const int64_t wave = next_wave(p, p.stages[s].sites, step + p.stages[s].lead);
    if (wave != INT64_MAX) next = std::min(next, wave - p.stages[s].lead);
  }
  return next;
}

}  // namespace vlae::pixelcnn_sample
