// Who computes what a stage of a plan reads, and whether that is in time.
#pragma once

#include <numeric>

#include "../narrow.h"
#include "plan.h"

namespace vlae {

// Calls each(buffer, tap) for all that a stage reads.
template <typename Each>
void for_reads(const PlanStage& stage, const Each& each) {
  for (const PlanSource& source : stage.sources)
    for (const Tap& tap : source.taps) each(source.buffer, tap);
  for (const int64_t buffer : {stage.residual, stage.factor})
    if (buffer >= 0) each(buffer, Tap{0, 0});
}

// Calls each(writer) for the stages that compute what is read at a tap from the pixels of `sites`: -1 for the image, -2 where
// no stage computes some of it.
template <typename Each>
void for_writers(const Plan& plan, const Sites& sites, int64_t buffer, const Tap& tap, const Each& each) {
  const std::vector<int32_t>& phases = plan.phases[usize(buffer)];
  if (buffer == 0) return each(int64_t{-1});
  const int64_t stride = plan.strides[usize(buffer)], step = std::gcd(stride, sites.stride);
  const auto first = [&](int64_t at) { return (at % step + step) % step; };
  for (int64_t row = first(sites.row + tap.dy); row < stride; row += step)
    for (int64_t column = first(sites.column + tap.dx); column < stride; column += step)
      each(int64_t{phases[usize(row * stride + column)]});
}

// Finds which stage writes which pixels of each buffer. Throws unless stages that join a buffer have pixels of their own.
void place_phases(const char* op, Plan& plan);

// Throws where a stage reads what none computes, or stages read each other in a circle.
void check_reads(const char* op, const Plan& plan);

// Throws unless every value is computed before it is read, on an image of this size.
void check_schedule(const char* op, const Plan& plan, int64_t height, int64_t width);

// True if the tap can read a pixel of the image at all; others contribute nothing.
bool lands(const Tap& tap, int64_t height, int64_t width);

}  // namespace vlae
