// Limits of a program on any device. Constants alone: the CPU's files of one instruction set include this.
#pragma once

namespace vlae {

constexpr int kMaxSources = 64;  // of a stage

// Beyond, logits over the temperature, or scales times it, leave float64, and the specification with it.
constexpr double kLeastTemperature = 1e-100, kMostTemperature = 1e100;

}  // namespace vlae
