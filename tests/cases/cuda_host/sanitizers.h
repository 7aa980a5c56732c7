// What sanitizers are told of fibers. To ThreadSanitizer each is a thread of its own, and barriers of the block alone order
// what they read and write: neither shuffles nor matrix instructions do, which on the hardware order registers only.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_THREAD__)

#include <sanitizer/tsan_interface.h>
// They switch threads, or are the hardware: what they read and write is no access of a thread.
#define VLAE_UNSEEN [[gnu::no_sanitize("thread")]]

namespace vlae::host {

class Watched {
 public:
  Watched() = default;
  Watched(const Watched&) = delete;
  ~Watched() {
    if (fiber_) __tsan_destroy_fiber(fiber_);
  }
  VLAE_UNSEEN void create() { fiber_ = __tsan_create_fiber(0); }
  VLAE_UNSEEN void be_current() { current_ = __tsan_get_current_fiber(); }
  VLAE_UNSEEN void switch_to() const { __tsan_switch_to_fiber(fiber_ ? fiber_ : current_, __tsan_switch_to_fiber_no_sync); }

 private:
  void *fiber_ = nullptr, *current_ = nullptr;
};

// All that came before it in every thread that gives is before all that comes behind it in those that take.
class Order {
 public:
  VLAE_UNSEEN void give() { __tsan_release(&place_); }
  VLAE_UNSEEN void take() { __tsan_acquire(&place_); }

 private:
  char place_ = 0;
};

constexpr std::size_t kStackBytes = 256 << 10;

}  // namespace vlae::host

#else

#define VLAE_UNSEEN

namespace vlae::host {

struct Watched {
  void create() {}
  void be_current() {}
  void switch_to() const {}
};

struct Order {
  void give() {}
  void take() {}
};

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t kStackBytes = 256 << 10;
#else
constexpr std::size_t kStackBytes = 64 << 10;
#endif

}  // namespace vlae::host

#endif
