// Floats aligned to a cache line. Not for the files of one instruction set: it has inline functions.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "../checks.h"
#include "../narrow.h"

namespace vlae {

constexpr size_t kLineBytes = 64;

struct Free {
  void operator()(void* p) const { std::free(p); }
};

// Zeroed. Pages that nobody touches cost nothing.
class ZeroedFloats {
 public:
  explicit ZeroedFloats(int64_t count) : memory_(std::calloc(usize(count) * sizeof(float) + kLineBytes, 1)) {}

  explicit operator bool() const { return memory_ != nullptr; }

  float* data() const {
    const uintptr_t start = reinterpret_cast<uintptr_t>(memory_.get());
    return reinterpret_cast<float*>((start + kLineBytes - 1) / kLineBytes * kLineBytes);
  }

 private:
  std::unique_ptr<void, Free> memory_;
};

// Kept from call to call, unless it is large: what is freed the system may take back, and then faults in anew.
class KeptFloats {
 public:
  explicit KeptFloats(int64_t most = 1 << 20) : most_(most) {}

  // Uninitialised; nullptr where there is no memory. They are the next call's.
  float* take(int64_t count) {
    if (count > size_) {
      size_ = 0;
      const size_t bytes = usize(count) * sizeof(float);
      memory_.reset(static_cast<float*>(std::aligned_alloc(kLineBytes, (bytes + kLineBytes - 1) / kLineBytes * kLineBytes)));
      if (memory_) size_ = count;
    }
    return memory_.get();
  }

  void give_back() {
    if (size_ <= most_) return;
    size_ = 0;
    memory_.reset();
  }

 private:
  std::unique_ptr<float, Free> memory_;
  int64_t size_ = 0, most_;
};

// Uninitialised floats for the length of a call; an error of the op where there is no memory.
struct FloatsOfCall {
  KeptFloats& kept;
  float* data;

  FloatsOfCall(const char* op, KeptFloats& from, int64_t count) : kept(from), data(from.take(std::max<int64_t>(count, 1))) {
    VLAE_CHECK(data != nullptr, op, "memory", text("hold ", 4 * count, " bytes more"), "none");
  }
  ~FloatsOfCall() { kept.give_back(); }
  FloatsOfCall(const FloatsOfCall&) = delete;
  FloatsOfCall& operator=(const FloatsOfCall&) = delete;
};

// An odd number of cache lines: rows a power of two apart would evict one another from the first cache.
inline int64_t padded_stride(int64_t floats) {
  constexpr int64_t kLine = kLineBytes / sizeof(float);
  return ((floats + kLine - 1) / kLine | 1) * kLine;
}

}  // namespace vlae
