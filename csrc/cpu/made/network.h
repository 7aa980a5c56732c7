// The masked linear layers of a MADE, one after the other: checked, their units numbered by degree.
#pragma once

#include <string>

#include <torch/csrc/stable/tensor.h>

#include "../masked_linear/structure.h"

namespace vlae::made {

using masked_linear::LinearLayer;
using masked_linear::Side;
using masked_linear::Structure;
using torch::stable::Tensor;

class Network {
 public:
  // Throws unless the layers fit x [batch, inputs] and one another. side: the columns of the panels.
  Network(const char* op, const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& degrees, Side side,
          int lanes);
  Network(const Network&) = delete;
  Network& operator=(const Network&) = delete;

  int64_t size() const { return static_cast<int64_t>(layers_.size()); }
  bool is_last(int64_t layer) const { return layer + 1 == size(); }
  const LinearLayer& layer(int64_t index) const { return layers_[static_cast<size_t>(index)]; }  // of numbered units
  const Structure& structure(int64_t layer) const { return *structures_[static_cast<size_t>(layer)]; }

  // The units that a layer reads; of size(): the outputs. Their places, cf. order_of; none: the units are numbered as they lie.
  int64_t units(int64_t layer) const { return layer < size() ? this->layer(layer).inputs : this->layer(layer - 1).outputs; }
  const std::vector<int32_t>& places(int64_t layer) const {
    return layer < size() ? structure(layer).in_places : structure(layer - 1).out_places;
  }

  // Panels packed one behind the other, those of all layers: where each begins, how many floats all are and the largest one.
  int64_t count(int64_t layer) const { return static_cast<int64_t>(at_[static_cast<size_t>(layer)].size()); }
  int64_t at(int64_t layer, int64_t panel) const { return at_[static_cast<size_t>(layer)][static_cast<size_t>(panel)]; }
  masked_linear::Panel panel(int64_t layer, int64_t index) const {
    return structure(layer).panels[static_cast<size_t>(index)].view();
  }
  int64_t floats() const { return floats_; }
  int64_t most() const { return most_; }
  double work() const { return work_; }  // multiply-adds of a sample

 private:
  std::vector<std::shared_ptr<const Structure>> structures_;
  std::vector<Tensor> weights_;  // by the units' numbers
  std::vector<LinearLayer> layers_;
  std::vector<std::vector<int64_t>> at_;
  int64_t floats_ = 0, most_ = 0;
  double work_ = 0;
};

}  // namespace vlae::made
