// Packing of a program's weights: into a tensor of its own, or into one that is there.
#include <cmath>

#include <torch/csrc/stable/library.h>

#include "../../narrow.h"
#include "../../pixelcnn_sample/weights.h"
#include "arguments.h"
#include "packing.h"

namespace vlae::pixelcnn_sample {

VLAE_KERNELS_OF(VLAE_FOR_EACH_BFLOAT16_ISA);

namespace {

constexpr const char* kPack = "pixelcnn_pack";
constexpr const char* kRepack = "pixelcnn_repack";

Tensor pack(std::vector<Tensor> weights, std::vector<int64_t> words, std::string isa_name, std::string dtype) {
  const Storage storage = storage_by_name(kPack, dtype);
  const Isa& isa = isa_by_name(kPack, isa_name, storage);
  const Plan plan = parse_plan(kPack, words);
  std::vector<int64_t> places(1);  // 0, 1, ...: of all taps
  for (const PlanStage& stage : plan.stages)
    for (const PlanSource& source : stage.sources)
      while (places.size() < source.taps.size()) places.push_back(static_cast<int64_t>(places.size()));
  std::vector<WeightTensor> tensors;
  for (const float* data : check_weights(kPack, weights, plan)) tensors.push_back({data, 1, places.data()});
  size_t next = 0;
  for (const PlanStage& stage : plan.stages) {
    if (stage.kind == StageKind::sum)
      for (size_t s = 0; s < stage.sources.size(); ++s)
        tensors[next + s].cell = static_cast<int64_t>(stage.sources[s].taps.size());
    next += count_weights(stage);
  }
  const int lanes = kernels_of(isa).lanes;
  const Packing packing = packing_of(kPack, plan, lanes, storage);
  Tensor packed = new_like(kPack, weights[0], {packing.size});
  pack_program(packed.mutable_data_ptr<float>(), plan, packing, static_cast<int>(isa.id), lanes, tensors.data());
  VLAE_CHECK(all_finite(floats(packed), plan, packing, lanes), kPack, "weights", "be finite in " + dtype, "larger numbers");
  return packed;
}

// The next of the numbers that say where weights lie.
int64_t next_cell(const std::vector<int64_t>& cells, size_t& at, const char* what, int64_t low, int64_t high) {
  VLAE_CHECK(at < cells.size(), kRepack, "cells", text("go on with ", what), text("its end after ", at, " numbers"));
  const int64_t value = cells[at++];
  VLAE_CHECK(low <= value && value <= high, kRepack, text("cells[", at - 1, "] (", what, ")"), text("be in ", low, "..", high),
             value);
  return value;
}

// The weights of a plan where they lie. cells: for each source, the weights of a kernel, and the place of each tap in it.
std::vector<WeightTensor> find_weights(const std::vector<Tensor>& weights, const Plan& plan,
                                       const std::vector<int64_t>& cells) {
  std::vector<WeightTensor> found;
  size_t at = 0;
  const auto add = [&](int64_t numel, int64_t cell, const int64_t* places) {
    const std::string name = text("weights[", found.size(), "]");
    VLAE_CHECK(found.size() < weights.size(), kRepack, "weights", "have a tensor for each of the plan's", weights.size());
    const Tensor& weight = weights[found.size()];
    check_float(kRepack, name, weight);
    VLAE_CHECK(weight.numel() == numel, kRepack, name, text("have ", numel, " numbers"), weight.numel());
    found.push_back({floats(weight), cell, places});
  };
  for (const PlanStage& stage : plan.stages) {
    if (stage.kind == StageKind::norm) {
      for (const int64_t numel : {stage.out_channels, stage.out_channels, int64_t{1}}) add(numel, 1, nullptr);
      VLAE_CHECK(found.back().data[0] > 0, kRepack, "weights", "have an eps above 0 in a norm",
                 number_text(found.back().data[0]));
      continue;
    }
    if (stage.kind == StageKind::attend) {
      add(1, 1, nullptr);
      continue;
    }
    for (const PlanSource& source : stage.sources) {
      const int64_t cell = next_cell(cells, at, "cell", 1, kMaxSide), first = static_cast<int64_t>(at);
      for (size_t tap = 0; tap < source.taps.size(); ++tap) next_cell(cells, at, "place", 0, cell - 1);
      add(stage.columns() * plan.channels[usize(source.buffer)] * cell, cell, cells.data() + first);
    }
    add(stage.columns(), 1, nullptr);
    if (stage.context_dim > 0) add(stage.columns() * stage.context_dim, 1, nullptr);
  }
  VLAE_CHECK(at == cells.size(), kRepack, "cells", text("end after ", at, " numbers"), cells.size());
  VLAE_CHECK(found.size() == weights.size(), kRepack, "weights", text("be ", found.size(), " tensors"), weights.size());
  return found;
}

// Checks what is packed, not what is read: dead weights may be anything. After an error `packed` is of no use.
void repack(Tensor packed, std::vector<Tensor> weights, std::vector<int64_t> words, std::vector<int64_t> cells) {
  const Plan plan = parse_plan(kRepack, words);
  const auto [isa, storage] = check_packed(kRepack, packed, plan);
  const int lanes = kernels_of(isa).lanes;
  const Packing packing = packing_of(kRepack, plan, lanes, storage);
  VLAE_CHECK(packed.numel() == packing.size, kRepack, "packed", text("have ", packing.size, " floats"), packed.numel());
  const std::vector<WeightTensor> tensors = find_weights(weights, plan, cells);
  float* out = packed.mutable_data_ptr<float>();
  pack_program(out, plan, packing, static_cast<int>(isa.id), lanes, tensors.data());
  VLAE_CHECK(all_finite(out, plan, packing, lanes), kRepack, "weights", "be finite", "nan or inf");
}

}  // namespace
}  // namespace vlae::pixelcnn_sample

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) {
  m.def("pixelcnn_pack(Tensor[] weights, int[] plan, str isa, str dtype=\"float32\") -> Tensor");
  m.def("pixelcnn_repack(Tensor(a!) packed, Tensor[] weights, int[] plan, int[] cells) -> ()");
}

STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CPU, m) {
  m.impl("pixelcnn_pack", TORCH_BOX(&vlae::pixelcnn_sample::pack));
  m.impl("pixelcnn_repack", TORCH_BOX(&vlae::pixelcnn_sample::repack));
}
