// The panels of all layers of a MADE, packed once for all threads of a call.
#pragma once

#include <atomic>
#include <memory>

#include "../../narrow.h"
#include "network.h"

namespace vlae::made {

using LinearKernels = masked_linear::Kernels;

class Panels {
 public:
  // memory: where threads find what another one has packed, of the network's floats(). nullptr: each packs for itself.
  Panels(const LinearKernels& kernels, const Network& network, Side side, float* memory);

  // The packed panel. Whoever needs it first packs it; who comes while another does so packs it for itself, into `own`, of
  // the network's most() floats, rather than wait.
  const float* packed(int64_t layer, int64_t index, float* own);

 private:
  enum class State : uint8_t { none, begun, done };

  const LinearKernels& kernels_;
  const Network& network_;
  const Side side_;
  float* const memory_;
  std::vector<int64_t> first_;  // panel of each layer among all
  std::unique_ptr<std::atomic<State>[]> states_;
};

}  // namespace vlae::made
