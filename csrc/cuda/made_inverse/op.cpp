// Schemas and implementations of made_plan and made_inverse. Arguments are checked here, so that nothing behind this file can
// be led out of bounds. Data on the GPU is not looked into, which would wait for it: tables must be those of `made_plan`.
#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "../../made_inverse/contract.h"
#include "../../parse_activation.h"
#include "../arguments.h"
#include "../library.h"
#include "kernel.h"
#include "plan.h"

namespace vlae::cuda::made_inverse {
namespace {

constexpr const char* kPlan = "made_plan";
constexpr const char* kOp = "made_inverse";
constexpr int64_t kMaxUnits = int64_t{1} << 28;         // in a layer
constexpr int64_t kMaxValues = (int64_t{1} << 31) - 1;  // in a batch; thread blocks of a grid

constexpr int64_t kMagic = 0x564c414d;

// The first words of a header. The sizes of the layers follow them.
struct Header {
  int64_t magic, blocks, quads, events, values, fours, event_fours, layers;
};
constexpr int64_t kHeaderWords = sizeof(Header) / sizeof(int64_t);

// Length of the tables in int32: quads, events, blocks and their end, order.
int64_t table_ints(const Header& h) {
  constexpr int64_t kInt = sizeof(int32_t);
  return static_cast<int64_t>(sizeof(Quad)) / kInt * h.quads + static_cast<int64_t>(sizeof(Event)) / kInt * h.events +
         static_cast<int64_t>(sizeof(Block)) / kInt * (h.blocks + 1) + h.values;
}

template <typename T>
T* append(const std::vector<T>& from, T* to) {
  return std::copy(from.begin(), from.end(), to);
}

void write_tables(const MadePlan& plan, void* tables) {
  const auto events = append(plan.quads, static_cast<Quad*>(tables));
  const auto blocks = append(plan.events, reinterpret_cast<Event*>(events));
  const auto order = append(plan.blocks, reinterpret_cast<Block*>(blocks));
  append(plan.order, reinterpret_cast<int32_t*>(order));
}

Walk walk_of(const Header& h, const void* tables) {
  const Quad* quads = static_cast<const Quad*>(tables);
  const Event* events = reinterpret_cast<const Event*>(quads + h.quads);
  const Block* blocks = reinterpret_cast<const Block*>(events + h.events);
  return {quads, events, blocks, reinterpret_cast<const int32_t*>(blocks + h.blocks + 1), static_cast<int32_t>(h.blocks)};
}

std::vector<int64_t> check_degrees(const Tensor& degrees, size_t index) {
  const std::string name = text("degrees[", index, "]");
  check_data(kPlan, name, degrees, ScalarType::Long, "int64");
  VLAE_CHECK(degrees.dim() == 1 && degrees.numel() <= kMaxUnits, kPlan, name, text("be [n] with n <= ", kMaxUnits),
             shape_text(degrees.sizes()));
  const int64_t* data = degrees.const_data_ptr<int64_t>();
  return {data, data + degrees.numel()};
}

// Reads a header, and the sizes of the layers behind it.
Header check_header(const Tensor& header, std::vector<int64_t>& sizes) {
  check_data(kOp, "header", header, ScalarType::Long, "int64");
  Header h = {};
  const int64_t* words = header.const_data_ptr<int64_t>();
  const int64_t n = header.numel() - kHeaderWords;
  if (n > 0) std::memcpy(&h, words, sizeof h);
  bool is_plan = h.magic == kMagic && 1 <= h.layers && h.layers <= kMaxLayers && n == h.layers + 1;
  for (const int64_t count : {h.blocks, h.quads, h.events, h.values, h.fours, h.event_fours})
    is_plan = is_plan && 0 <= count && count <= kMaxValues;
  VLAE_CHECK(is_plan, kOp, "header", "come from made_plan", "one that does not");
  sizes.assign(words + kHeaderWords, words + header.numel());
  for (const int64_t size : sizes)
    VLAE_CHECK(0 <= size && size <= kMaxUnits, kOp, "header", "come from made_plan", "one that does not");
  return h;
}

void check_layers(const std::vector<Tensor>& weights, const std::vector<Tensor>& biases, const std::vector<int64_t>& sizes,
                  const Tensor& eps, Layers& layers) {
  const size_t per_step = sizes.size() - 1, n = weights.size();
  VLAE_CHECK(n > 0 && n % per_step == 0 && n <= kMaxLayers && biases.size() == n, kOp, "weights, biases",
             text("have S L entries, L = ", per_step, " as planned, S >= 1, S L <= ", kMaxLayers),
             text(n, ", ", biases.size()));
  layers.steps = static_cast<int32_t>(n / per_step);
  layers.per_step = static_cast<int32_t>(per_step);
  for (size_t i = 0; i < n; ++i) {
    const std::string weight = text("weights[", i, "]"), bias = text("biases[", i, "]");
    const int64_t inputs = sizes[i % per_step], outputs = sizes[i % per_step + 1];
    check_like(kOp, weight, weights[i], eps);
    check_shape(kOp, weight, weights[i], {outputs, inputs});
    check_like(kOp, bias, biases[i], eps);
    check_shape(kOp, bias, biases[i], {outputs});
    layers.weights[i] = weights[i].const_data_ptr();
    layers.biases[i] = biases[i].const_data_ptr();
    layers.inputs[i] = static_cast<int32_t>(inputs);
  }
}

Walk check_tables(const Tensor& tables, const Header& h, const Tensor& eps) {
  check_on_device(kOp, "tables", tables, eps);
  check_values(kOp, "tables", tables, ScalarType::Int, "int32");
  check_shape(kOp, "tables", tables, {table_ints(h)});
  return walk_of(h, tables.const_data_ptr());
}

void check_eps(const Tensor& eps, const std::vector<int64_t>& sizes) {
  check_like(kOp, "eps", eps, eps);
  VLAE_CHECK(eps.dim() == 2 && eps.size(1) == sizes[0] && eps.size(0) <= kMaxValues, kOp, "eps", text("be [B, ", sizes[0], "]"),
             shape_text(eps.sizes()));
}

void check_cond(const std::optional<Tensor>& cond, const Tensor& eps, const std::vector<int64_t>& sizes, int64_t steps) {
  if (!cond) return;
  check_like(kOp, "cond", *cond, eps);
  check_shape(kOp, "cond", *cond, {eps.size(0), steps * sizes[1]});
}

// Returns the walk of a MADE, as tables that are to be put on the GPU, and a header that says what is in them. Both are on
// the CPU.
std::tuple<Tensor, Tensor> plan(std::vector<Tensor> tensors) {
  VLAE_CHECK(2 <= tensors.size() && tensors.size() <= kMaxLayers + 1, kPlan, "degrees",
             text("have 2..", kMaxLayers + 1, " entries"), tensors.size());
  std::vector<std::vector<int64_t>> degrees;
  for (const Tensor& tensor : tensors) degrees.push_back(check_degrees(tensor, degrees.size()));
  VLAE_CHECK(!degrees[0].empty(), kPlan, "degrees[0]", "be [D] with D >= 1", "(0,)");
  check_ends(kPlan, degrees[0].data(), tensors.front().numel(), degrees.back().data(), tensors.back().numel());
  const MadePlan made = plan_made(kPlan, degrees);
  const auto count = [](const auto& table) { return static_cast<int64_t>(table.size()); };
  const Header h = {.magic = kMagic,
                    .blocks = count(made.blocks) - 1,
                    .quads = count(made.quads),
                    .events = count(made.events),
                    .values = count(made.order),
                    .fours = made.fours,
                    .event_fours = made.event_fours,
                    .layers = count(degrees) - 1};
  Tensor tables = new_vector(tensors[0], table_ints(h), ScalarType::Int);
  write_tables(made, tables.mutable_data_ptr());
  Tensor header = new_vector(tensors[0], kHeaderWords + count(degrees), ScalarType::Long);
  int64_t* words = header.mutable_data_ptr<int64_t>();
  std::memcpy(words, &h, sizeof h);
  for (size_t l = 0; l < degrees.size(); ++l) words[kHeaderWords + l] = count(degrees[l]);
  return {tables, header};
}

// Returns x [S, B, D] of each of S steps, and log_det [B], the sum over the steps.
std::tuple<Tensor, Tensor> inverse(Tensor eps, std::vector<Tensor> weights, std::vector<Tensor> biases, Tensor tables,
                                   Tensor header, std::optional<Tensor> cond, std::string activation, std::string scale) {
  std::vector<int64_t> sizes;
  const Header h = check_header(header, sizes);
  check_eps(eps, sizes);
  Layers layers = {};
  check_layers(weights, biases, sizes, eps, layers);
  const int64_t steps = layers.steps;
  check_cond(cond, eps, sizes, steps);
  VLAE_CHECK(steps * (h.quads + h.events) <= kMaxValues, kOp, "weights", text("need a grid of at most ", kMaxValues, " blocks"),
             text(steps * (h.quads + h.events)));
  const Walk walk = check_tables(tables, h, eps);
  const Dtype dtype = dtype_of(kOp, "eps", eps);
  const int64_t size = eps.size(0);
  const Activation function = parse_activation(kOp, activation, kMadeInverse);
  const MadeScale slope = scale_by_name(kOp, scale);
  check_scale(kOp, slope, sizes.front(), sizes.back());

  const std::vector<int64_t> shape = {steps, size, sizes[0]};
  Tensor x = torch::stable::new_empty(eps, shape), log_det = new_vector(eps, size, eps.scalar_type());
  if (size == 0) return {x, log_det};
  const Current current(kOp, eps);
  Tensor packed = new_vector(eps, steps * kLaneRows * h.fours, eps.scalar_type());
  Tensor known = new_vector(eps, size * h.values, ScalarType::Float);
  const Batch batch = {.eps = eps.const_data_ptr(),
                       .cond = cond ? cond->const_data_ptr() : nullptr,
                       .x = x.mutable_data_ptr(),
                       .log_det = log_det.mutable_data_ptr(),
                       .known = known.mutable_data_ptr<float>(),
                       .size = size,
                       .steps = layers.steps,
                       .dim = static_cast<int32_t>(sizes[0]),
                       .cond_size = static_cast<int32_t>(sizes[1]),
                       .values = static_cast<int32_t>(h.values),
                       .outputs = static_cast<int32_t>(h.layers),
                       .affine = sizes.back() > sizes.front(),
                       .activation = function,
                       .scale = slope};
  const Counts counts = {h.quads, h.events, h.fours, h.event_fours};
  run_pack(kOp, dtype, walk, counts, layers, packed.mutable_data_ptr(), current.stream());
  run_inverse(kOp, dtype, walk, counts, packed.const_data_ptr(), batch, current.stream());
  return {x, log_det};
}

}  // namespace
}  // namespace vlae::cuda::made_inverse

VLAE_CUDA_SCHEMAS(m) {
  m.def("made_plan(Tensor[] degrees) -> (Tensor tables, Tensor header)");
  m.def(
      "made_inverse(Tensor eps, Tensor[] weights, Tensor[] biases, Tensor tables, Tensor header, Tensor? cond, "
      "str activation, str scale) -> (Tensor x, Tensor log_det)");
}

VLAE_CUDA_IMPL(CPU, m) { m.impl("made_plan", TORCH_BOX(&vlae::cuda::made_inverse::plan)); }

VLAE_CUDA_IMPL(VLAE_GPU, m) { m.impl("made_inverse", TORCH_BOX(&vlae::cuda::made_inverse::inverse)); }
