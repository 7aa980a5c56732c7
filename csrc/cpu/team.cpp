#include "team.h"

#include <exception>
#include <thread>

namespace vlae {

namespace {

// Longer than the gap between two jobs; after it, another thread may need this core.
constexpr int kSpins = 2000;

class Spin {
 public:
  void wait() {
    if (++spins_ > kSpins) return std::this_thread::yield();
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }

 private:
  int spins_ = 0;
};

}  // namespace

void start_helpers(const std::shared_ptr<Parts>& parts, int count) {
  try {
    for (int i = 0; i < count; ++i) std::thread([parts] { parts->help(); }).detach();
  } catch (const std::exception&) {
    // No more threads to be had: the ones there are do the work.
  }
}

void Parts::share(const Job& job) noexcept {
  stage_.store(job.stage, std::memory_order_relaxed);
  wave_.store(job.wave, std::memory_order_relaxed);
  helped_.store(0, std::memory_order_relaxed);
  const uint64_t number = (ticket_.load(std::memory_order_relaxed) >> kJobBits) + 1;
  ticket_.store(number << kJobBits | static_cast<uint64_t>(job.parts) << kPartBits, std::memory_order_release);
  int own = 0;
  for (;; ++own) {
    const uint64_t part = ticket_.fetch_add(1, std::memory_order_relaxed) & kPartMask;
    if (part >= static_cast<uint64_t>(job.parts)) break;
    work_(job, static_cast<int>(part));
  }
  for (Spin spin; helped_.load(std::memory_order_acquire) != job.parts - own;) spin.wait();
}

void Parts::help() noexcept {
  Spin spin;
  for (;;) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    if (ticket == kClosed) return;
    const uint64_t part = ticket & kPartMask, parts = ticket >> kPartBits & kPartMask;
    const Job job = {stage_.load(std::memory_order_relaxed), wave_.load(std::memory_order_relaxed), static_cast<int>(parts)};
    // Success means that this part was still to be done, so the job's data were not yet overwritten by the next job's.
    if (part < parts && ticket_.compare_exchange_weak(ticket, ticket + 1)) {
      work_(job, static_cast<int>(part));
      helped_.fetch_add(1, std::memory_order_release);
      spin = {};
    } else {
      spin.wait();
    }
  }
}

void Parts::close() noexcept { ticket_.store(kClosed, std::memory_order_release); }

}  // namespace vlae
