// A live place of a kernel, as an offset in the image. Plain data.
#pragma once

#include <cstdint>

namespace vlae {

struct Tap {
  int64_t dy, dx;  // rows down, columns to the right
};

}  // namespace vlae
