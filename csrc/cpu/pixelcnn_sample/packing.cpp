#include "packing.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "../../checks.h"
#include "../../narrow.h"
#include "../../pixelcnn_sample/weights.h"
#include "../halves.h"
#include "../panels.h"
#include "program.h"

namespace vlae::pixelcnn_sample {

namespace {

constexpr float kMagic = 0x564c41;
constexpr float kFormat = 2;
constexpr int64_t kHeaderWords = 9;
constexpr int64_t kNumberFloats = 16;  // as many as keep what follows aligned; the first is an eps or a scale

constexpr int64_t kFirst = 0;

// What a panel has rows of.
struct PackedSource {
  WeightTensor weights;
  int64_t channels, taps;
};

// The sources of a stage, the context last: it is one where it is a map. weights: of the stage, nullptr where only sizes
// matter.
std::vector<PackedSource> sources_of(const Plan& plan, const PlanStage& stage, const WeightTensor* weights) {
  std::vector<PackedSource> sources;
  for (size_t s = 0; s < stage.sources.size(); ++s)
    sources.push_back({weights ? weights[s] : WeightTensor{}, plan.channels[usize(stage.sources[s].buffer)],
                       static_cast<int64_t>(stage.sources[s].taps.size())});
  if (stage.context_dim > 0)
    sources.push_back(
        {weights ? WeightTensor{weights[sources.size() + 1].data, 1, &kFirst} : WeightTensor{}, stage.context_dim, 1});
  return sources;
}

// Puts a stage behind the first `size` floats and moves `size` behind it.
StagePacking place_stage(const char* op, const PlanStage& stage, int64_t depth, int lanes, int64_t& size) {
  StagePacking place;
  place.vecs = vecs_of(stage.activation, stage.out_channels, lanes);
  place.depth = depth;
  place.bias = size;
  place.weight = size + place.vecs * lanes;
  int64_t floats;
  const bool overflow = __builtin_mul_overflow(depth, place.vecs * lanes, &floats);
  VLAE_CHECK(!overflow && floats <= kMaxFloats - place.weight, op, "plan", text("need at most ", kMaxFloats, " weights"),
             text("a stage of ", depth, " x ", stage.columns()));
  size = place.weight + floats + (stage.kind == StageKind::sum ? 0 : kNumberFloats);
  return place;
}

// Whole numbers of at most 24 bits: as floats they are exact and never NaN, so any copy of the tensor keeps them.
std::array<float, kHeaderWords> header_words(const Plan& plan, int isa, Storage storage, int64_t size) {
  const auto piece = [](uint64_t value, int shift) { return static_cast<float>(value >> shift & 0xffffff); };
  return {kMagic,
          kFormat,
          static_cast<float>(isa),
          piece(usize(size), 0),
          piece(usize(size), 24),
          piece(plan.checksum, 0),
          piece(plan.checksum, 24),
          piece(plan.checksum, 48),
          static_cast<float>(storage)};
}

void write_header(float* packed, const Plan& plan, int isa, const Packing& packing) {
  const std::array<float, kHeaderWords> words = header_words(plan, isa, packing.storage, packing.size);
  std::fill_n(std::copy(words.begin(), words.end(), packed), kHeaderFloats - kHeaderWords, 0.0f);
}

// weights: gain, bias, eps.
void pack_norm(float* packed, const PlanStage& stage, const StagePacking& packing, const WeightTensor* weights, int lanes) {
  const int64_t all = packing.vecs * lanes, n = stage.out_channels;
  std::fill_n(std::copy_n(weights[1].data, n, packed + packing.bias), all - n, 0.0f);
  float* eps = std::fill_n(std::copy_n(weights[0].data, n, packed + packing.weight), all - n, 0.0f);
  std::fill_n(eps, kNumberFloats, weights[2].data[0]);
}

void pack_attend(float* packed, const StagePacking& packing, float scale, int lanes) {
  std::fill_n(packed + packing.bias, packing.vecs * lanes, 0.0f);
  std::fill_n(packed + packing.weight, kNumberFloats, scale);
}

// One source's products of a panel, [taps][channels][width]. rows: of each column, nullptr for padding. A few channels at a
// time, so that the lines that a tap has read are near for the next.
void pack_source(const PackedSource& source, const float* const* rows, int64_t width, float* out) {
  constexpr int64_t kChannels = 16;
  const bool full = std::find(rows, rows + width, nullptr) == rows + width;
  for (int64_t first = 0; first < source.channels; first += kChannels)
    for (int64_t tap = 0; tap < source.taps; ++tap)
      for (int64_t c = first; c < std::min(source.channels, first + kChannels); ++c) {
        const int64_t from = c * source.weights.cell + source.weights.places[tap];
        float* to = out + (tap * source.channels + c) * width;
        if (full)
          for (int64_t lane = 0; lane < width; ++lane) to[lane] = rows[lane][from];
        else
          for (int64_t lane = 0; lane < width; ++lane) to[lane] = rows[lane] ? rows[lane][from] : 0.0f;
      }
}

// As pack_source in bfloat16: [taps][pairs of channels][width][2]. What has no channel or no column is 0.
void pack_pairs(const PackedSource& source, const float* const* rows, int64_t width, float* out) {
  const int64_t pairs = floats_of(Storage::bfloat16, source.channels);
  for (int64_t tap = 0; tap < source.taps; ++tap)
    for (int64_t c = 0; c < 2 * pairs; ++c) {
      const int64_t from = c * source.weights.cell + source.weights.places[tap];
      float* to = out + (tap * pairs + c / 2) * width;
      for (int64_t lane = 0; lane < width; ++lane)
        set_value(Storage::bfloat16, to, 2 * lane + c % 2, rows[lane] && c < source.channels ? rows[lane][from] : 0.0f);
    }
}

void pack_stage(float* packed, const PlanStage& stage, const std::vector<PackedSource>& sources, const float* bias,
                const StagePacking& packing, Storage storage, int lanes) {
  std::vector<const float*> rows(usize(int64_t{kPanelVecs} * lanes));
  for (int64_t first = 0; first < packing.vecs; first += kPanelVecs) {
    const int64_t width = std::min<int64_t>(kPanelVecs, packing.vecs - first) * lanes;
    float* out = packed + packing.weight + first * packing.depth * lanes;
    const auto column_at = [&](int64_t lane) {
      return column_of(stage.activation, stage.out_channels, first + lane / lanes, lane % lanes, lanes);
    };
    for (int64_t lane = 0; lane < width; ++lane)
      packed[packing.bias + first * lanes + lane] = column_at(lane) < 0 ? 0.0f : bias[column_at(lane)];
    for (const PackedSource& source : sources) {
      const int64_t step = source.channels * source.weights.cell;
      for (int64_t lane = 0; lane < width; ++lane)
        rows[usize(lane)] = column_at(lane) < 0 ? nullptr : source.weights.data + column_at(lane) * step;
      (storage == Storage::float32 ? pack_source : pack_pairs)(source, rows.data(), width, out);
      out += source.taps * floats_of(storage, source.channels) * width;
    }
  }
}

}  // namespace

PlanStage context_stage(const PlanStage& stage) { return {stage.columns(), -1, 0, Activation::none, 0, {{0, {{0, 0}}}}}; }

Packing packing_of(const char* op, const Plan& plan, int lanes, Storage storage) {
  Packing packing;
  packing.size = kHeaderFloats;
  packing.storage = storage;
  for (const PlanStage& stage : plan.stages) {
    int64_t depth = stage.kind == StageKind::norm;  // its gain
    if (stage.kind == StageKind::sum)
      for (const PackedSource& source : sources_of(plan, stage, nullptr))
        depth += floats_of(storage, source.channels) * source.taps;
    VLAE_CHECK(
        stage.kind != StageKind::attend || storage == Storage::float32 || stage.out_channels <= stage.heads * kMaxPairedWidth,
        op, "plan", text("have at most ", kMaxPairedWidth, " channels in a head of attention in bfloat16"),
        text(stage.out_channels, " in ", stage.heads));
    packing.stages.push_back(place_stage(op, stage, depth, lanes, packing.size));
  }
  for (const PlanStage& stage : plan.stages)
    if (stage.context_dim > 0)
      packing.contexts.push_back(
          place_stage(op, context_stage(stage), floats_of(storage, stage.context_dim), lanes, packing.size));
  return packing;
}

Header read_header(const char* op, const float* packed, int64_t size, const Plan& plan) {
  VLAE_CHECK(size >= kHeaderFloats && packed[0] == kMagic && packed[1] == kFormat, op, "packed", "come from pixelcnn_pack",
             text("a tensor of ", size, " floats without its header"));
  const int isa = packed[2] >= 0 && packed[2] < 256 ? static_cast<int>(packed[2]) : -1;
  const Storage storage = packed[8] == 1 ? Storage::bfloat16 : Storage::float32;
  const std::array<float, kHeaderWords> words = header_words(plan, isa, storage, size);
  VLAE_CHECK(packed[3] == words[3] && packed[4] == words[4], op, "packed", "have the size its header says",
             text(size, " floats"));
  VLAE_CHECK(packed[5] == words[5] && packed[6] == words[6] && packed[7] == words[7], op, "packed", "be packed for this plan",
             "the weights of another plan");
  return {isa, storage};
}

void pack_program(float* packed, const Plan& plan, const Packing& packing, int isa, int lanes, const WeightTensor* weights) {
  write_header(packed, plan, isa, packing);
  auto context = packing.contexts.begin();
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    const PlanStage& stage = plan.stages[s];
    if (stage.kind == StageKind::norm)
      pack_norm(packed, stage, packing.stages[s], weights, lanes);
    else if (stage.kind == StageKind::attend)
      pack_attend(packed, packing.stages[s], weights[0].data[0], lanes);
    else
      pack_stage(packed, stage, sources_of(plan, stage, weights), weights[stage.sources.size()].data, packing.stages[s],
                 packing.storage, lanes);
    weights += count_weights(stage);
    if (stage.context_dim == 0) continue;
    const std::vector<float> no_bias(usize(stage.columns()));  // the stage itself adds its bias
    const PackedSource matrix = {{weights[-1].data, 1, &kFirst}, stage.context_dim, 1};
    pack_stage(packed, context_stage(stage), {matrix}, no_bias.data(), *context++, packing.storage, lanes);
  }
}

bool all_finite(const float* packed, const Plan& plan, const Packing& packing, int lanes) {
  constexpr uint32_t kExponent = 0x7f800000;
  uint32_t infinite = 0;
  const auto look = [&](int64_t first, int64_t last, int shift) {
    for (int64_t i = first; i < last; ++i) {
      uint32_t bits;
      std::memcpy(&bits, packed + i, sizeof bits);
      infinite |= (bits << shift & kExponent) == kExponent;
    }
  };
  look(0, packing.size, 0);
  if (packing.storage == Storage::float32) return !infinite;
  const auto look_at_first = [&](const StagePacking& place) {  // of pairs: the look above saw the second
    look(place.weight, place.weight + place.depth * place.vecs * lanes, 16);
  };
  for (size_t s = 0; s < plan.stages.size(); ++s)
    if (plan.stages[s].kind == StageKind::sum) look_at_first(packing.stages[s]);
  for (const StagePacking& place : packing.contexts) look_at_first(place);
  return !infinite;
}

}  // namespace vlae::pixelcnn_sample
