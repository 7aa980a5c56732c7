// The place of each column of the unpacked weights in a layer's panels. Not for the files of one instruction set.
#pragma once

#include "layer.h"

namespace vlae {

constexpr int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

constexpr int64_t vecs_of(Activation activation, int64_t out_channels, int64_t lanes) {
  return round_up(out_channels, lanes) / lanes * (is_pair(activation) ? 2 : 1);
}

// The column of the unpacked weights that a lane of a packed vector holds, or -1 for padding.
constexpr int64_t column_of(Activation activation, int64_t out_channels, int64_t vec, int64_t lane, int64_t lanes) {
  const bool pair = is_pair(activation);
  const int64_t channel = (pair ? vec / 2 : vec) * lanes + lane;
  if (channel >= out_channels) return -1;
  return pair && vec % 2 ? out_channels + channel : channel;
}

}  // namespace vlae
