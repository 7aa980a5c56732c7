// Runs: the stretches of memory behind a row's pointer that a matrix product reads in place.
// Plain data, shared by the files of every instruction set.
#pragma once

#include <cstdint>

namespace vlae {

constexpr int kPanelVecs = 2;  // vectors of columns that packed weights keep together

// A stretch of `length` floats behind a row's pointer, multiplied by rows weight, weight + 1, ... of a packed panel.
struct Run {
  int64_t offset, weight, length;
};

}  // namespace vlae
