// The offset in the image that a live place of a kernel reads. Plain data.
#pragma once

#include <cstdint>

namespace vlae {

struct Tap {
  int64_t dy, dx;  // rows down, columns to the right
};

}  // namespace vlae
