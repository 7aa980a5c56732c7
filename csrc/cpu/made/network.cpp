#include "network.h"

#include <limits>

#include "../../tensors.h"
#include "../masked_linear/units.h"

namespace vlae::made {

namespace {

void check_degrees(const char* op, const std::string& name, const Tensor& degrees) {
  check_data(op, name, degrees, ScalarType::Long, "int64");
  VLAE_CHECK(degrees.dim() == 1, op, name, "be 1-D", shape_text(degrees.sizes()));
  const int64_t* data = degrees.const_data_ptr<int64_t>();
  for (int64_t i = 0; i < degrees.numel(); ++i)
    VLAE_CHECK(data[i] > std::numeric_limits<int32_t>::min() && data[i] < std::numeric_limits<int32_t>::max(), op, name,
               "fit in 32 bits", data[i]);
}

}  // namespace

Network::Network(const char* op, const Tensor& x, const std::vector<Tensor>& weights, const std::vector<Tensor>& degrees,
                 Side side, int lanes) {
  VLAE_CHECK(degrees.size() >= 2, op, "degrees", "have L + 1 entries with L >= 1", degrees.size());
  VLAE_CHECK(degrees.size() == weights.size() + 1, op, "weights, degrees", "have L and L + 1 entries",
             text(weights.size(), ", ", degrees.size()));
  for (size_t i = 0; i < degrees.size(); ++i) check_degrees(op, text("degrees[", i, "]"), degrees[i]);
  check_float(op, "x", x);
  VLAE_CHECK(x.dim() == 2 && x.size(1) == degrees[0].numel(), op, "x", text("be [B, ", degrees[0].numel(), "]"),
             shape_text(x.sizes()));
  for (size_t l = 0; l < weights.size(); ++l) {
    const Tensor &in = degrees[l], &out = degrees[l + 1];
    const std::string name = text("weights[", l, "]");
    check_float(op, name, weights[l]);
    check_shape(op, name, weights[l], {out.numel(), in.numel()});
    structures_.push_back(masked_linear::structure_of(
        op, {in.const_data_ptr<int64_t>(), out.const_data_ptr<int64_t>(), nullptr, in.numel(), out.numel()}, side, lanes));
    const Structure& structure = *structures_.back();
    weights_.push_back(masked_linear::gathered(weights[l], structure.out_places, structure.in_places));
    LinearLayer layer = {};
    layer.inputs = in.numel();
    layer.outputs = out.numel();
    layer.weight = vlae::floats(weights_[l]);
    layer.in_degrees = structure.in_degrees.data();
    layer.out_degrees = structure.out_degrees.data();
    layers_.push_back(layer);
    at_.emplace_back();
    for (const masked_linear::LivePanel& live : structure.panels) {
      const masked_linear::Panel panel = live.view();
      const int64_t floats = (panel.both.length * kPanelVecs + panel.more.length) * lanes;
      at_.back().push_back(floats_);
      floats_ += floats;
      most_ = std::max(most_, floats);
      work_ += masked_linear::work_of(live);
    }
  }
}

}  // namespace vlae::made
