// A block of threads on the host: fibers of one thread, of which a barrier, of the block or of a warp, switches to the next.
//
// Between two barriers a fiber runs alone, by VLAE_HOST_ORDER from the first to the last, `backward` from the last to the
// first, or, a number, in an order drawn from that seed: a barrier that is missing gives other results in one of the orders,
// and a race to ThreadSanitizer in each. VLAE_HOST_WITHOUT=FILE:LINE leaves that barrier out. Shared memory starts as NaN.
#pragma once

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <source_location>
#include <stdexcept>
#include <string>
#include <vector>

#include "sanitizers.h"

namespace vlae::host {

constexpr size_t kLanes = 32;

enum class At { start, matrix_product, tf32_product, matrix_load, shuffle, block_barrier, end };

struct Fiber {
  Watched watched;
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  At at = At::start;
  unsigned barriers = 0;  // of the block, that it has passed
};

// A lane's part of a matrix instruction.
struct Operands {
  float a[8], b[4];
  float* d;
};

// The same of TF32, as bits.
struct Tf32 {
  const uint32_t *a, *b;
  float* d;
};

// A lane's part of a shuffle.
struct Shuffle {
  uint32_t mine, theirs;
  size_t lane;  // whose
};

// A lane's part of a load of matrices: the row that it names, what it gets.
struct Load {
  uint32_t row[4];
  uint32_t* to;
};

// The order in which warps run, and their lanes.
class Turns {
 public:
  explicit Turns(const char* order)
      : backward_(order && !std::strcmp(order, "backward")), random_(order && *order >= '0' && *order <= '9') {
    if (random_) rng_.seed(static_cast<unsigned>(std::atoi(order)));
  }
  VLAE_UNSEEN bool is_backward() { return random_ ? rng_() % 2 : backward_; }
  VLAE_UNSEEN std::vector<size_t> of(size_t count) {
    std::vector<size_t> turns(count);
    for (size_t i = 0; i < count; ++i) turns[i] = backward_ ? count - 1 - i : i;
    if (random_) std::shuffle(turns.begin(), turns.end(), rng_);
    return turns;
  }

 private:
  bool backward_, random_;
  std::mt19937 rng_;
};

struct Block {
  std::vector<Fiber> fibers;
  size_t shared_bytes;
  std::unique_ptr<float4[]> shared;
  std::function<void()> body;
  Turns turns{std::getenv("VLAE_HOST_ORDER")};
  ucontext_t scheduler;
  Watched watched;  // the scheduler
  Order first, barriers[2], last;
  size_t current = 0;
  Operands operands[kLanes];  // of the warp that runs
  std::array<Tf32, 3> tf32[kLanes];
  Shuffle shuffles[kLanes];
  Load loads[kLanes];
};

inline Block* block = nullptr;

// What orders the accesses of threads that stop there.
VLAE_UNSEEN inline Order* order_at(Fiber& fiber, At at) {
  if (at == At::end) return &block->last;
  return at == At::block_barrier ? &block->barriers[fiber.barriers++ % 2] : nullptr;
}

VLAE_UNSEEN inline void stop(At at) {
  Fiber& fiber = block->fibers[block->current];
  fiber.at = at;
  Order* order = order_at(fiber, at);
  if (order) order->give();
  block->watched.switch_to();
  swapcontext(&fiber.context, &block->scheduler);
  if (order) order->take();
}

VLAE_UNSEEN inline void run_fiber() {
  block->first.take();
  block->body();
  stop(At::end);
}

// Fibers first .. first + kLanes - 1 as far as their next barrier; all must get to the same.
VLAE_UNSEEN inline At run_lanes(size_t first) {
  const bool backward = block->turns.is_backward();
  for (size_t i = 0; i < kLanes; ++i) {
    block->current = first + (backward ? kLanes - 1 - i : i);
    threadIdx.x = static_cast<unsigned>(block->current);
    block->fibers[block->current].watched.switch_to();
    swapcontext(&block->scheduler, &block->fibers[block->current].context);
  }
  const At at = block->fibers[first].at;
  for (size_t i = first; i < first + kLanes; ++i)
    if (block->fibers[i].at != at) throw std::runtime_error("cuda on host: threads stopped at different barriers");
  return at;
}

// mma.m16n8k16: element [row, k] of a is in lane row % 8 * 4 + k % 8 / 2, [k, column] of b in lane column * 4 + k % 8 / 2;
// a lane has elements [lane / 4 (+ 8), lane % 4 * 2 (+ 1)] of d.
VLAE_UNSEEN inline void multiply_operands() {
  for (int lane = 0; lane < static_cast<int>(kLanes); ++lane)
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float sum = block->operands[lane].d[i];
      for (int k = 0; k < 16; ++k) {
        const Operands& left = block->operands[row % 8 * 4 + k % 8 / 2];
        const Operands& right = block->operands[column * 4 + k % 8 / 2];
        sum += left.a[(k / 8 * 2 + row / 8) * 2 + k % 2] * right.b[k / 8 * 2 + k % 2];
      }
      block->operands[lane].d[i] = sum;
    }
}

// The part of a number that TF32 has, and a sum towards zero, as the hardware adds.
VLAE_UNSEEN inline double part_of_tf32(uint32_t bits) { return std::bit_cast<float>(bits & ~0x1fffu); }
VLAE_UNSEEN inline float towards_zero(double sum) {
  const float nearest = static_cast<float>(sum);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(sum) ? std::nextafterf(nearest, 0.0f) : nearest;
}

// mma.m16n8k8: element [row, k] of a is in lane row % 8 * 4 + k % 4, [k, column] of b in lane column * 4 + k % 4; d as above.
VLAE_UNSEEN inline void multiply_tf32_operands(size_t turn) {
  for (int lane = 0; lane < static_cast<int>(kLanes); ++lane)
    for (int i = 0; i < 4; ++i) {
      const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
      float& d = block->tf32[lane][turn].d[i];
      double sum = d;
      for (int k = 0; k < 8; ++k)
        sum += part_of_tf32(block->tf32[row % 8 * 4 + k % 4][turn].a[k / 4 * 2 + row / 8]) *
               part_of_tf32(block->tf32[column * 4 + k % 4][turn].b[k / 4]);
      d = towards_zero(sum);
    }
}

VLAE_UNSEEN inline void exchange() {
  for (Shuffle& shuffle : block->shuffles) shuffle.theirs = block->shuffles[shuffle.lane % kLanes].mine;
}

// ldmatrix.x4: lane l names row l % 8 of matrix l / 8, and gets numbers l % 4 * 2 and the next of row l / 4 of each.
VLAE_UNSEEN inline void load_rows() {
  for (size_t lane = 0; lane < kLanes; ++lane)
    for (size_t i = 0; i < 4; ++i) block->loads[lane].to[i] = block->loads[8 * i + lane / 4].row[lane % 4];
}

// A warp as far as its next barrier of the block. It waits for its matrix instructions and shuffles alone.
VLAE_UNSEEN inline At run_warp(size_t first) {
  for (;;) {
    const At at = run_lanes(first);
    if (at == At::matrix_product)
      multiply_operands();
    else if (at == At::tf32_product)
      for (size_t turn = 0; turn < 3; ++turn) multiply_tf32_operands(turn);
    else if (at == At::matrix_load)
      load_rows();
    else if (at == At::shuffle)
      exchange();
    else
      return at;
  }
}

// A whole block as far as its next barrier.
VLAE_UNSEEN inline At run_to_barrier() {
  for (const size_t warp : block->turns.of(block->fibers.size() / kLanes)) run_warp(warp * kLanes);
  for (const Fiber& fiber : block->fibers)
    if (fiber.at != block->fibers[0].at)
      throw std::runtime_error("cuda on host: some warps ended before a barrier of the others");
  return block->fibers[0].at;
}

VLAE_UNSEEN inline void start(Fiber& fiber) {
  fiber.watched.create();
  fiber.stack.reset(new char[kStackBytes]);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  makecontext(&fiber.context, run_fiber, 0);
}

VLAE_UNSEEN inline void run_block(unsigned threads, size_t shared_bytes, const std::function<void()>& body) {
  Block b;
  b.fibers = std::vector<Fiber>(threads);
  b.shared_bytes = shared_bytes;
  b.shared = std::make_unique<float4[]>((shared_bytes + sizeof(float4) - 1) / sizeof(float4));
  b.body = body;
  std::fill_n(reinterpret_cast<float*>(b.shared.get()), shared_bytes / sizeof(float), std::numeric_limits<float>::quiet_NaN());
  block = &b;
  b.watched.be_current();
  b.first.give();
  for (Fiber& fiber : b.fibers) start(fiber);
  while (run_to_barrier() != At::end) {
  }
  b.last.take();
  block = nullptr;
}

// The barrier of a block, unless it is the one that is to be left out.
inline void wait_for_block(const std::source_location& where) {
  static const char* const without = std::getenv("VLAE_HOST_WITHOUT");
  if (without) {
    const std::string file = where.file_name();
    if (file.substr(file.rfind('/') + 1) + ":" + std::to_string(where.line()) == without) return;
  }
  stop(At::block_barrier);
}

}  // namespace vlae::host
