// Stands in for torch's threads in a library built with ThreadSanitizer, which cannot see into torch's own: std::thread is
// instrumented. Linked into our library and hidden there, these are found before those of libtorch.
#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

#include <torch/csrc/stable/ops.h>

namespace {

constexpr int64_t kThreads = 4;  // whatever the machine has: a race needs no second core to be seen

thread_local bool inside = false;  // as torch does it, a loop within a loop is one thread's

void run_chunk(int64_t begin, int64_t end, ParallelFunc body, void* context) {
  inside = true;
  body(begin, end, context);
  inside = false;
}

}  // namespace

extern "C" {

AOTITorchError torch_get_num_threads(uint32_t* out) {
  *out = kThreads;
  return AOTI_TORCH_SUCCESS;
}

// Chunks of at least `grain` indices, no more of them than threads; the caller takes the first.
AOTITorchError torch_parallel_for(int64_t begin, int64_t end, int64_t grain, ParallelFunc body, void* context) {
  if (begin >= end) return AOTI_TORCH_SUCCESS;
  const int64_t least = std::max<int64_t>(grain, 1), wanted = (end - begin + least - 1) / least;
  if (inside || wanted == 1) {
    body(begin, end, context);
    return AOTI_TORCH_SUCCESS;
  }
  const int64_t chunk = (end - begin + std::min(wanted, kThreads) - 1) / std::min(wanted, kThreads);
  std::vector<std::thread> threads;
  for (int64_t first = begin + chunk; first < end; first += chunk)
    threads.emplace_back(run_chunk, first, std::min(first + chunk, end), body, context);
  run_chunk(begin, begin + chunk, body, context);
  for (std::thread& thread : threads) thread.join();
  return AOTI_TORCH_SUCCESS;
}
}
