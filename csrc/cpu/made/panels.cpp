#include "panels.h"

namespace vlae::made {

Panels::Panels(const LinearKernels& kernels, const Network& network, Side side, float* memory)
    : kernels_(kernels), network_(network), side_(side), memory_(memory) {
  if (!memory) return;
  int64_t count = 0;
  for (int64_t l = 0; l < network.size(); ++l) {
    first_.push_back(count);
    count += network.count(l);
  }
  states_ = std::make_unique<std::atomic<State>[]>(usize(count));
}

const float* Panels::packed(int64_t layer, int64_t index, float* own) {
  const masked_linear::Panel panel = network_.panel(layer, index);
  const auto pack = side_ == Side::outputs ? kernels_.pack_outputs : kernels_.pack_inputs;
  if (memory_) {
    std::atomic<State>& state = states_[usize(first_[usize(layer)] + index)];
    float* shared = memory_ + network_.at(layer, index);
    State seen = State::none;
    if (state.compare_exchange_strong(seen, State::begun, std::memory_order_acquire)) {
      pack(network_.layer(layer), panel, shared);
      state.store(State::done, std::memory_order_release);
      return shared;
    }
    if (seen == State::done) return shared;
  }
  pack(network_.layer(layer), panel, own);
  return own;
}

}  // namespace vlae::made
