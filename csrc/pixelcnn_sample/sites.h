// The pixels that a stage computes. Plain data alone: the CPU's files of one instruction set include this.
#pragma once

#include <cstdint>

namespace vlae {

// The pixels (i, j) with i % stride == row and j % stride == column.
struct Sites {
  int64_t stride, row, column;
};

}  // namespace vlae
