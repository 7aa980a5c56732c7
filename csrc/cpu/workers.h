// Tasks shared out among torch's threads, each with memory of its own.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include <torch/csrc/stable/ops.h>

#include "../checks.h"

namespace vlae {

// Memory kept from call to call, unless it is large: what is freed the system may take back, and then faults in anew.
class KeptFloats {
 public:
  // Uninitialised, aligned to a cache line; nullptr where there is no memory. They are the next call's.
  float* take(int64_t count) {
    if (count > size_) {
      size_ = 0;
      memory_.reset(static_cast<float*>(std::aligned_alloc(kLine, (count * sizeof(float) + kLine - 1) / kLine * kLine)));
      if (memory_) size_ = count;
    }
    return memory_.get();
  }

  void give_back() {
    if (size_ > kMost) size_ = 0, memory_.reset();
  }

 private:
  static constexpr int64_t kMost = 1 << 20;
  static constexpr size_t kLine = 64;

  struct Free {
    void operator()(float* p) const { std::free(p); }
  };
  std::unique_ptr<float, Free> memory_;
  int64_t size_ = 0;
};

inline KeptFloats& scratch_of_thread() {
  static thread_local KeptFloats scratch;
  return scratch;
}

// body(task, scratch) for every task, the next one to whoever is free; scratch: `floats` uninitialised floats of the thread,
// aligned to a cache line. body must not throw.
template <typename Body>
void run_tasks(const char* op, int64_t tasks, int64_t floats, const Body& body) {
  const int64_t workers = std::min<int64_t>(tasks, torch::stable::get_num_threads());
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    KeptFloats& kept = scratch_of_thread();
    if (float* scratch = kept.take(std::max<int64_t>(floats, 1)))
      for (int64_t task = next++; task < tasks; task = next++) body(task, scratch);
    kept.give_back();
  });
  VLAE_CHECK(next >= tasks, op, "memory", text("hold ", floats, " floats for a thread"), "none");
}

}  // namespace vlae
