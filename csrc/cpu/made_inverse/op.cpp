// The op's arguments: checked here, so that nothing behind this file can be led out of bounds.
#include <algorithm>

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../../made_inverse/contract.h"
#include "../../parse_activation.h"
#include "../../tensors.h"
#include "../isa.h"
#include "../workers.h"
#include "pack.h"

namespace vlae::made_inverse {

VLAE_KERNELS_OF_ISA;

namespace {

constexpr const char* kOp = "made_inverse";

const int64_t* check_degrees(const std::string& name, const Tensor& degrees, int64_t size) {
  check_data(kOp, name, degrees, ScalarType::Long, "int64");
  check_shape(kOp, name, degrees, {size});
  return degrees.const_data_ptr<int64_t>();
}

void check_layers(MadeTensors& made, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
                  const std::vector<Tensor>& degrees) {
  const size_t n = weights.size();
  VLAE_CHECK(n >= 1 && biases.size() == n && degrees.size() == n + 1, kOp, "weights, biases, degrees",
             "have L, L and L + 1 entries with L >= 1", text(n, ", ", biases.size(), ", ", degrees.size()));
  made.degrees.push_back(check_degrees("degrees[0]", degrees[0], made.sizes[0]));
  for (size_t l = 0; l < n; ++l) {
    const std::string weight = text("weights[", l, "]"), bias = text("biases[", l, "]");
    check_float(kOp, weight, weights[l]);
    VLAE_CHECK(weights[l].dim() == 2 && weights[l].size(1) == made.sizes[l], kOp, weight, text("be [O, ", made.sizes[l], "]"),
               shape_text(weights[l].sizes()));
    made.sizes.push_back(weights[l].size(0));
    check_float(kOp, bias, biases[l]);
    check_shape(kOp, bias, biases[l], {made.sizes[l + 1]});
    made.weights.push_back(floats(weights[l]));
    made.biases.push_back(floats(biases[l]));
    made.degrees.push_back(check_degrees(text("degrees[", l + 1, "]"), degrees[l + 1], made.sizes[l + 1]));
  }
}

// Whole tiles are dealt out: as wide as leaves every thread one.
void run_tiles(const MadePlan& plan, const Kernels& kernels, MadeTile tile, int64_t batch) {
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), batch);
  const int64_t share = (batch + threads - 1) / threads;
  tile.vecs = static_cast<int>(std::min<int64_t>(kMadeMaxVecs, (share + kernels.lanes - 1) / kernels.lanes));
  const int64_t width = tile.vecs * kernels.lanes;
  const int64_t tiles = std::min(batch, ((batch + width - 1) / width + threads - 1) / threads * threads);
  run_tasks(kOp, {tiles, threads, plan.floats * width}, [&](int64_t index, const Worker& worker) {
    MadeTile mine = tile;
    mine.scratch = worker.scratch;
    mine.first = batch * index / tiles;
    mine.count = batch * (index + 1) / tiles - mine.first;
    kernels.run_tile(plan, mine);
  });
}

std::tuple<Tensor, Tensor> inverse(Tensor eps, std::vector<Tensor> weights, std::vector<Tensor> biases,
                                   std::vector<Tensor> degrees, std::optional<Tensor> cond, std::string activation,
                                   std::string scale, std::string isa_name) {
  const Isa& isa = isa_by_name(kOp, isa_name);
  check_float(kOp, "eps", eps);
  VLAE_CHECK(eps.dim() == 2, kOp, "eps", "be [B, D]", shape_text(eps.sizes()));
  MadeTensors made;
  made.activation = parse_activation(kOp, activation, kMadeInverse);
  made.scale = scale_by_name(kOp, scale);
  made.sizes.push_back(eps.size(1));
  check_layers(made, weights, biases, degrees);
  check_ends(kOp, made.degrees.front(), made.sizes.front(), made.degrees.back(), made.sizes.back());
  check_scale(kOp, made.scale, made.sizes.front(), made.sizes.back());
  const int64_t batch = eps.size(0);
  if (cond) {
    check_float(kOp, "cond", *cond);
    check_shape(kOp, "cond", *cond, {batch, made.sizes[1]});
  }
  Tensor x = new_like(kOp, eps, {batch, eps.size(1)}), log_det = new_like(kOp, eps, {batch});
  if (batch == 0) return {x, log_det};
  const PackedMade packed(made);
  MadeTile tile = {};
  tile.eps = floats(eps);
  tile.cond = cond ? floats(*cond) : nullptr;
  tile.cond_size = made.sizes[1];
  tile.x = x.mutable_data_ptr<float>();
  tile.log_det = log_det.mutable_data_ptr<float>();
  run_tiles(packed.plan(), kernels_of(isa), tile, batch);
  return {x, log_det};
}

}  // namespace
}  // namespace vlae::made_inverse

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) {
  m.def(
      "made_inverse(Tensor eps, Tensor[] weights, Tensor[] biases, Tensor[] degrees, Tensor? cond, str activation, "
      "str scale, str isa) -> (Tensor x, Tensor log_det)");
}

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) { m.impl("made_inverse", TORCH_BOX(&vlae::made_inverse::inverse)); }
