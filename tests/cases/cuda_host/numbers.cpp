// Prints what the host computes before a launch: a quotient that Divisor has wrong, and the samples of tiles.
//   numbers BATCH PROCESSORS FITTING: samples per tile, tiles, samples of the last
#include <cstdio>
#include <cstdlib>
#include <initializer_list>

#include "cuda/pixelcnn_sample/tiling.h"

using namespace vlae::cuda;
using namespace vlae::cuda::pixelcnn_sample;

namespace {

bool check(int32_t n, int32_t d) {
  const Divisor by = divisor_of(d);
  if (n / by == n / d && n % by == n % d) return true;
  std::printf("%d / %d is not %d\n", n, d, n / by);
  return false;
}

bool check_quotients() {
  constexpr int32_t kMost = 2147483647;
  uint32_t random = 1;
  for (int i = 0; i < 200000; ++i) {
    random = random * 1664525 + 1013904223;
    const int32_t d = static_cast<int32_t>(random >> (1 + i % 31)) + 1, n = static_cast<int32_t>(random * 2654435769u >> 1);
    const int32_t multiple = n / d * d;
    for (const int32_t at : {n, multiple, multiple > 0 ? multiple - 1 : 0, kMost, kMost - kMost % d, 0})
      if (!check(at, d)) return false;
  }
  return check(kMost, kMost) && check(kMost - 1, kMost) && check(kMost, 1) && check(kMost, 2);
}

}  // namespace

int main(int, char** arguments) {
  if (!check_quotients()) return 1;
  const int64_t batch = std::atoll(arguments[1]), fitting = std::atoll(arguments[3]);
  static Program p = {};
  p.rows = divisor_of(7);
  p.zero_size = 72;
  p.sample_size = 1000;
  const int64_t free = fitting * p.sample_size * format_of(p.dtype).bytes;
  // the tables of a plan without taps, and the zeros
  const int64_t others = 8 * 16 * 4 + 72 * 4;
  const Tiling tiling = tiling_of(p, batch, {std::atoi(arguments[2]), static_cast<int32_t>(free + others)});
  std::printf("%d %d %d\n", tiling.samples.value, tiling.blocks, tiling.left.value);
}
