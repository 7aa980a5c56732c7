// Limits of a program on any device. Constants alone: the CPU's files of one instruction set include this.
#pragma once

namespace vlae {

constexpr int kMaxSources = 64;  // of a stage

}  // namespace vlae
