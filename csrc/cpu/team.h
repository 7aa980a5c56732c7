// Work of a few microseconds, shared by threads that live for one call. Tasks that can wait go to workers.h.
//
// Not torch's threads: on them an image of 1 ms took 4 wherever another program ran on the same cores.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

namespace vlae {

// The first thread posts jobs of a few microseconds, cut in parts; whoever is there takes the next part.
//
// Not a barrier: the first thread waits only for parts that a helper has begun. Where other programs keep the helpers from
// running it does the work alone, instead of waiting for their turn at every job.
class Parts {
 public:
  static constexpr int kMaxParts = 1 << 15;

  struct Job {
    int64_t stage, wave;
    int parts;
  };
  using Work = std::function<void(const Job&, int part)>;

  explicit Parts(const Work& work) : work_(work) {}

  void share(const Job& job) noexcept;  // the first thread; returns when every part is done
  void help() noexcept;                 // the others; returns after close()
  void close() noexcept;                // the first thread, when there are no more jobs

 private:
  static constexpr int kPartBits = 16, kJobBits = 2 * kPartBits;
  static constexpr uint64_t kPartMask = (uint64_t{1} << kPartBits) - 1;
  static constexpr uint64_t kClosed = ~uint64_t{0};

  const Work work_;
  // Number of the job, its number of parts, its next part. It only grows, and a part is only claimed by the ticket that
  // says that it is left: a reader of an older job's data cannot claim a part with them.
  alignas(64) std::atomic<uint64_t> ticket_{0};
  std::atomic<int64_t> stage_{0}, wave_{0};
  alignas(64) std::atomic<int> helped_{0};  // parts of this job that helpers have done
};

// Up to `count` threads that help until the parts are closed. Nobody waits for their end, which takes as long as some jobs:
// after close() they touch nothing but the parts, which they own, too.
void start_helpers(const std::shared_ptr<Parts>& parts, int count);

}  // namespace vlae
