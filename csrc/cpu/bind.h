// A checked plan and the tensors of one call become a Program.
#pragma once

#include <deque>
#include <vector>

#include "packing.h"
#include "program.h"

namespace vlae {

struct CondTensor {
  const float* data;
  bool per_pixel;  // [B, H, W, P] rather than [B, P]
};

class BoundProgram {
 public:
  // The plan's schedule must have been checked for this height and width.
  BoundProgram(const char* op, const Plan& plan, const PackedLayout& layout, const float* packed, int64_t height,
               int64_t width, const std::vector<CondTensor>& conds, const Draw& draw);
  BoundProgram(const BoundProgram&) = delete;
  BoundProgram& operator=(const BoundProgram&) = delete;

  const Program& program() const { return program_; }

 private:
  void place_buffers(const char* op, const Plan& plan);
  void add_runs(const PlanStage& stage);
  Cond bind_cond(const CondTensor& cond, int64_t columns) const;

  Program program_;
  std::vector<Stage> stages_;
  std::vector<Buffer> buffers_;
  // Deques: the program points at their elements while they grow.
  std::deque<std::vector<Run>> runs_;
  std::deque<std::vector<Source>> sources_;
};

}  // namespace vlae
