// The tensors of a MADE, checked, become a MadePlan.
#pragma once

#include <cstddef>
#include <vector>

#include "plan.h"

namespace vlae::made_inverse {

// The tensors of a call: layer l has weights [sizes[l + 1], sizes[l]], and sizes[0] = D inputs.
struct MadeTensors {
  std::vector<int64_t> sizes;
  std::vector<const void*> weights;  // in the storage
  std::vector<const float*> biases;
  std::vector<const int64_t*> degrees;
  std::vector<MadeVariable> variables;  // none where the inputs are x itself
  Activation activation;
  MadeScale scale;
  Storage storage = Storage::float32;
};

class PackedMade {
 public:
  explicit PackedMade(const MadeTensors& made);
  PackedMade(const PackedMade&) = delete;
  PackedMade& operator=(const PackedMade&) = delete;

  const MadePlan& plan() const { return plan_; }

 private:
  struct Units {
    std::vector<int64_t> order, ends;  // by degree, of those that are read; see MadeLayer
    bool in_place;                     // they lie in that order
    std::vector<float> bias;
    std::vector<char> copy;
    std::vector<const void*> rows;
  };

  void sort_variables(const MadeTensors& made);
  void find_negatives(const MadeTensors& made);
  int64_t step_of(size_t layer, int64_t degree) const;
  void sort_units(const MadeTensors& made, size_t layer);
  void bind_weights(const MadeTensors& made, size_t layer);
  void cut_blocks();
  void place();

  std::vector<Units> units_;
  std::vector<MadeLayer> layers_;
  std::vector<MadeVariable> variables_;
  int64_t most_units(size_t layer) const;

  std::vector<int64_t> negatives_, blocks_, offsets_, sums_;
  MadePlan plan_;
};

}  // namespace vlae::made_inverse
