// The waves of a program: which pixels share j + slope * i, and which of the waves are not empty.
#include "program.h"

#include <algorithm>

namespace vlae {

Wave wave_at(const Program& p, int64_t index) {
  if (p.slope == 0) return {index, 0, p.height};
  const int64_t late = index - (p.width - 1);  // rows above late / slope are past their last column
  const int64_t top = late <= 0 ? 0 : (late + p.slope - 1) / p.slope;
  const int64_t bottom = std::min(p.height - 1, index / p.slope);
  return {index, top, std::max<int64_t>(0, bottom - top + 1)};
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

}  // namespace vlae
