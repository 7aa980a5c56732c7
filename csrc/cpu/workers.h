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

// body(task, scratch) for every task, the next one to whoever is free; scratch: `floats` uninitialised floats of the thread,
// aligned to a cache line. body must not throw.
template <typename Body>
void run_tasks(const char* op, int64_t tasks, int64_t floats, const Body& body) {
  constexpr int64_t kLine = 64 / sizeof(float);
  const int64_t workers = std::min<int64_t>(tasks, torch::stable::get_num_threads());
  const int64_t stride = (floats + kLine - 1) / kLine * kLine + kLine;  // a line apart: two threads share none
  const size_t bytes = static_cast<size_t>(workers * stride + kLine) * sizeof(float);
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  const std::unique_ptr<void, Free> memory(std::aligned_alloc(64, bytes));
  VLAE_CHECK(memory != nullptr, op, "memory", text("hold ", workers, " bands at a time"), text("none for ", bytes, " bytes"));
  std::atomic<int64_t> next{0};
  torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t worker = begin; worker < end; ++worker)
      for (int64_t task = next++; task < tasks; task = next++) body(task, static_cast<float*>(memory.get()) + worker * stride);
  });
}

}  // namespace vlae
