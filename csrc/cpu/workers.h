// Tasks handed out to torch's threads. Loops over elements, all alike, are left to torch's parallel_for; work of microseconds
// goes to team.h.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include <torch/csrc/stable/ops.h>

#include "../checks.h"
#include "memory.h"

namespace vlae {

// Tasks of any size, the next one to whoever is free.
struct Tasks {
  int64_t count;
  int64_t workers;  // at most; no more than torch has threads
  int64_t floats;   // of scratch memory, for each worker
};

struct Worker {
  int64_t index;   // below Tasks::workers
  float* scratch;  // uninitialised, aligned to a cache line
};

inline KeptFloats& scratch_of_thread() {
  static thread_local KeptFloats scratch;
  return scratch;
}

// body(task, worker) for every task. body must not throw.
template <typename Body>
void run_tasks(const char* op, const Tasks& tasks, const Body& body) {
  std::atomic<int64_t> next{0};
  const int64_t workers = std::min({tasks.count, tasks.workers, int64_t{torch::stable::get_num_threads()}});
  torch::stable::parallel_for(0, workers, 1, [&](int64_t index, int64_t) {  // who has two indices takes tasks as one worker
    KeptFloats& kept = scratch_of_thread();
    if (float* scratch = kept.take(std::max<int64_t>(tasks.floats, 1)))
      for (int64_t task = next++; task < tasks.count; task = next++) body(task, Worker{index, scratch});
    kept.give_back();
  });
  VLAE_CHECK(next >= tasks.count, op, "memory", text("hold ", 4 * tasks.floats, " bytes more for each thread"), "none");
}

}  // namespace vlae
