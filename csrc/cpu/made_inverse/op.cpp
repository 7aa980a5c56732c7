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

VLAE_KERNELS_OF(VLAE_FOR_EACH_BFLOAT16_ISA);

namespace {

constexpr const char* kOp = "made_inverse";
constexpr const char* kSample = "made_sample";
constexpr int64_t kMaxLevels = int64_t{1} << 24;  // each of which a float can be

const int64_t* check_degrees(const char* op, const std::string& name, const Tensor& degrees, int64_t size) {
  check_data(op, name, degrees, ScalarType::Long, "int64");
  check_shape(op, name, degrees, {size});
  return degrees.const_data_ptr<int64_t>();
}

void check_held(const char* op, const std::string& name, const Tensor& tensor, Storage storage) {
  if (storage == Storage::float32) return check_float(op, name, tensor);
  check_data(op, name, tensor, ScalarType::BFloat16, "bfloat16, as eps");
}

void check_layers(const char* op, MadeTensors& made, const std::vector<Tensor>& weights, const std::vector<Tensor>& biases,
                  const std::vector<Tensor>& degrees) {
  const size_t n = weights.size();
  VLAE_CHECK(n >= 1 && biases.size() == n && degrees.size() == n + 1, op, "weights, biases, degrees",
             "have L, L and L + 1 entries with L >= 1", text(n, ", ", biases.size(), ", ", degrees.size()));
  made.degrees.push_back(check_degrees(op, "degrees[0]", degrees[0], made.sizes[0]));
  for (size_t l = 0; l < n; ++l) {
    const std::string weight = text("weights[", l, "]"), bias = text("biases[", l, "]");
    check_held(op, weight, weights[l], made.storage);
    VLAE_CHECK(weights[l].dim() == 2 && weights[l].size(1) == made.sizes[l], op, weight, text("be [O, ", made.sizes[l], "]"),
               shape_text(weights[l].sizes()));
    made.sizes.push_back(weights[l].size(0));
    check_float(op, bias, biases[l]);
    check_shape(op, bias, biases[l], {made.sizes[l + 1]});
    made.weights.push_back(weights[l].const_data_ptr());
    made.biases.push_back(floats(biases[l]));
    made.degrees.push_back(check_degrees(op, text("degrees[", l + 1, "]"), degrees[l + 1], made.sizes[l + 1]));
  }
}

// The tables of the variables, [levels, inputs] each; returns how many inputs they have in all.
int64_t check_tables(MadeTensors& made, const std::vector<Tensor>& tables) {
  VLAE_CHECK(!tables.empty(), kSample, "tables", "have an entry for each dimension", "none");
  int64_t inputs = 0;
  for (const Tensor& table : tables) {
    const int64_t index = static_cast<int64_t>(made.variables.size());
    const std::string name = text("tables[", index, "]");
    check_float(kSample, name, table);
    VLAE_CHECK(table.dim() == 2 && 1 <= table.size(0) && table.size(0) <= kMaxLevels && table.size(1) >= 1, kSample, name,
               text("be [K, E] with K in 1..", kMaxLevels, " and E >= 1"), shape_text(table.sizes()));
    made.variables.push_back({index, table.size(0), table.size(1), floats(table)});
    inputs += table.size(1);
  }
  return inputs;
}

// Whole tiles are dealt out: as wide as leaves every thread one.
void run_tiles(const char* op, const MadePlan& plan, const Kernels& kernels, MadeTile tile, int64_t batch) {
  const int64_t threads = std::min<int64_t>(torch::stable::get_num_threads(), batch);
  const int64_t share = (batch + threads - 1) / threads;
  tile.vecs = static_cast<int>(std::min<int64_t>(kMadeMaxVecs, (share + kernels.lanes - 1) / kernels.lanes));
  const int64_t width = tile.vecs * kernels.lanes;
  const int64_t tiles = std::min(batch, ((batch + width - 1) / width + threads - 1) / threads * threads);
  run_tasks(op, {tiles, threads, plan.floats * width}, [&](int64_t index, const Worker& worker) {
    MadeTile mine = tile;
    mine.scratch = worker.scratch;
    mine.first = batch * index / tiles;
    mine.count = batch * (index + 1) / tiles - mine.first;
    kernels.run_tile(plan, mine);
  });
}

// x and the log-determinant, or the log-probability, of checked layers; of eps, or noise, [B, D]. like: any float32 tensor.
std::tuple<Tensor, Tensor> run(const char* op, const MadeTensors& made, const Isa& isa, const Tensor& eps,
                               const std::optional<Tensor>& cond, const Tensor& like) {
  const int64_t batch = eps.size(0);
  if (cond) {
    check_float(op, "cond", *cond);
    check_shape(op, "cond", *cond, {batch, made.sizes[1]});
  }
  Tensor x = new_like(op, eps, {batch, eps.size(1)}), log_det = new_like(op, like, {batch});
  if (batch == 0) return {x, log_det};
  const PackedMade packed(made);
  MadeTile tile = {};
  tile.eps = eps.const_data_ptr();
  tile.cond = cond ? floats(*cond) : nullptr;
  tile.cond_size = made.sizes[1];
  tile.x = x.mutable_data_ptr();
  tile.log_det = log_det.mutable_data_ptr<float>();
  run_tiles(op, packed.plan(), kernels_of(isa), tile, batch);
  return {x, log_det};
}

std::tuple<Tensor, Tensor> inverse(Tensor eps, std::vector<Tensor> weights, std::vector<Tensor> biases,
                                   std::vector<Tensor> degrees, std::optional<Tensor> cond, std::string activation,
                                   std::string scale, std::string isa_name) {
  const Storage storage = eps.scalar_type() == ScalarType::BFloat16 ? Storage::bfloat16 : Storage::float32;
  const Isa& isa = isa_by_name(kOp, isa_name, storage);
  check_held(kOp, "eps", eps, storage);
  VLAE_CHECK(eps.dim() == 2, kOp, "eps", "be [B, D]", shape_text(eps.sizes()));
  MadeTensors made;
  made.storage = storage;
  made.activation = parse_activation(kOp, activation, kMadeInverse);
  made.scale = scale_by_name(kOp, scale);
  made.sizes.push_back(eps.size(1));
  check_layers(kOp, made, weights, biases, degrees);
  check_ends(kOp, made.degrees.front(), made.sizes.front(), made.degrees.back(), made.sizes.back());
  check_scale(kOp, made.scale, made.sizes.front(), made.sizes.back());
  return run(kOp, made, isa, eps, cond, biases[0]);
}

std::tuple<Tensor, Tensor> sample(Tensor noise, std::vector<Tensor> weights, std::vector<Tensor> biases,
                                  std::vector<Tensor> degrees, std::vector<Tensor> tables, std::optional<Tensor> cond,
                                  std::string activation, std::string isa_name) {
  const Isa& isa = isa_by_name(kSample, isa_name);
  check_float(kSample, "noise", noise);
  MadeTensors made;
  made.activation = parse_activation(kSample, activation, kMadeInverse);
  made.scale = MadeScale::bernoulli;
  made.sizes.push_back(check_tables(made, tables));
  const int64_t dim = static_cast<int64_t>(made.variables.size());
  VLAE_CHECK(noise.dim() == 2 && noise.size(1) == dim, kSample, "noise", text("be [B, ", dim, "]"), shape_text(noise.sizes()));
  check_layers(kSample, made, weights, biases, degrees);
  std::vector<int64_t> inputs, levels;
  int64_t outputs = 0;
  for (const MadeVariable& variable : made.variables) {
    inputs.push_back(variable.inputs);
    levels.push_back(variable.levels);
    outputs += variable.levels;
  }
  VLAE_CHECK(made.sizes.back() == outputs, kSample, "weights[-1]", text("have ", outputs, " outputs, a logit for each level"),
             made.sizes.back());
  check_variables(kSample, made.degrees.front(), made.degrees.back(), inputs, levels);
  return run(kSample, made, isa, noise, cond, biases[0]);
}

}  // namespace
}  // namespace vlae::made_inverse

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) {
  m.def(
      "made_inverse(Tensor eps, Tensor[] weights, Tensor[] biases, Tensor[] degrees, Tensor? cond, str activation, "
      "str scale, str isa) -> (Tensor x, Tensor log_det)");
  m.def(
      "made_sample(Tensor noise, Tensor[] weights, Tensor[] biases, Tensor[] degrees, Tensor[] tables, Tensor? cond, "
      "str activation, str isa) -> (Tensor x, Tensor log_prob)");
}

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) {
  m.impl("made_inverse", TORCH_BOX(&vlae::made_inverse::inverse));
  m.impl("made_sample", TORCH_BOX(&vlae::made_inverse::sample));
}
