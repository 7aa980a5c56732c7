// A checked plan and the tensors of one call become a Program.
#pragma once

#include <deque>
#include <vector>

#include "packing.h"
#include "program.h"

namespace vlae::pixelcnn_sample {

struct ContextTensor {
  const float* data;  // nullptr: none
  bool per_pixel;     // [B, H, W, D] rather than [B, D]
};

class BoundProgram {
 public:
  // The plan's schedule must have been checked for this height and width.
  BoundProgram(const char* op, const Plan& plan, const Packing& packing, const float* packed, int64_t height, int64_t width,
               const ContextTensor& context, const Draw& draw);
  BoundProgram(const BoundProgram&) = delete;
  BoundProgram& operator=(const BoundProgram&) = delete;

  const Program& program() const { return program_; }

 private:
  void place_buffers(const char* op, const Plan& plan, Storage storage);
  // Without a border: one value per sample, or per pixel.
  int64_t place_context(const char* op, int64_t channels, bool per_pixel, Storage storage);
  void add_context(const char* op, const Plan& plan, const Packing& packing, const float* packed, const ContextTensor& context);
  void add_runs(const PlanStage& stage);
  void add_source(size_t stage, int64_t buffer, const Run& run);

  Program program_;
  std::vector<Stage> stages_, context_stages_;
  std::vector<DrawAt> draws_;
  std::vector<Buffer> buffers_;
  // Deques: the program points at their elements while they grow.
  std::deque<std::vector<Run>> runs_;
  std::deque<std::vector<Source>> sources_;
};

}  // namespace vlae::pixelcnn_sample
