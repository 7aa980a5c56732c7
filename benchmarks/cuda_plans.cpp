// Prints what the host decides before a launch of the CUDA library, for `benchmarks.cuda_plans`. Numbers come from standard
// input.
//   pixelcnn_sample DTYPE HEIGHT WIDTH BATCH PROCESSORS SHARED_BYTES WORDS N word ...
//     tiles SAMPLES BLOCKS IN_SHARED IS_WHOLE ROWS BUSY: rows of a block of rows, and warps that do not locate a step; then
//     per stage, in the order in which they run:
//     stage SECTION IS_NORM IS_JOINED IS_PAIR PRODUCTS COLUMNS FIRST_WARP ENTRIES (rows in each step), then:
//     draws PASSES SECTIONS ...: passes of a thread block's threads, and of each draw the sections before it
//   sections MOST N word ...
//     per section: section STAGE ..., where each stage has one place and a section MOST
//   made_inverse LAYERS N degree ... N degree ...
//     per quad: quad BLOCK COUNT, per event: event BLOCK COUNT IS_DIMENSION, then: fours IN_ALL
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>

#include "cuda/made_inverse/plan.h"
#include "cuda/pixelcnn_sample/bind.h"
#include "cuda/pixelcnn_sample/sections.h"
#include "cuda/pixelcnn_sample/tiling.h"

namespace {

constexpr const char* kName = "cuda_plans";

int64_t next() {
  int64_t number = 0;
  std::cin >> number;
  return number;
}

std::vector<int64_t> next_list() {
  std::vector<int64_t> list(static_cast<size_t>(next()));
  for (int64_t& number : list) number = next();
  return list;
}

using namespace vlae::cuda;

int print_sampler() {
  using namespace pixelcnn_sample;
  const Dtype dtype = static_cast<Dtype>(next());
  const int64_t height = next(), width = next(), batch = next();
  const Limits limits = {static_cast<int32_t>(next()), static_cast<int32_t>(next())};
  const vlae::Plan plan = vlae::parse_plan(kName, next_list());
  const Packing packing = packing_of(kName, plan, dtype);
  const ContextKind context = plan.context_dim > 0 ? ContextKind::vector : ContextKind::none;
  static const Program p = bind(kName, plan, packing, height, width, context);
  const Tiling tiling = tiling_of(p, batch, limits);
  std::printf("tiles %d %d %d %d %d %d\n", tiling.samples.value, tiling.blocks, tiling.global_size == 0, tiling.is_whole,
              tiling.rows, p.busy);
  for (int32_t s = 0, section = 0; s < p.n_stages; ++s) {
    const Stage& stage = p.stages[s];
    const bool is_joined = stage.kind == Kind::residual || stage.kind == Kind::factor;
    std::printf("stage %d %d %d %d %d %d %d %d", section, stage.kind == Kind::norm, is_joined, is_pair(stage.activation),
                stage.tiles * static_cast<int32_t>(kTile), stage.columns, stage.warp, stage.n_entries);
    for (int32_t step = p.first_step; step < p.steps; ++step) {
      const int32_t wave = step + stage.lead;
      vlae::WaveRows<int32_t> some = {};
      if (0 <= wave && wave < p.steps)
        some = vlae::wave_rows_at(vlae::wave_rows(p.height, p.width, p.slope, wave), p.slope.value, wave, stage.stride,
                                  int32_t{stage.row}, int32_t{stage.column});
      std::printf(" %d", some.count * tiling.samples.value);
    }
    std::printf("\n");
    if (s + 1 == stage.end) ++section;
  }
  int64_t passes = 0;
  for (int32_t wave = 0; wave < p.steps; ++wave) {
    const int64_t items = int64_t{vlae::wave_rows(p.height, p.width, p.slope, wave).count} * tiling.samples.value;
    passes += p.n_draws * ((items + 32 * kWarps - 1) / (32 * kWarps));
  }
  std::printf("draws %lld", static_cast<long long>(passes));
  for (int32_t d = 0; d < p.n_draws; ++d) std::printf(" %d", p.draws[d].sections);
  std::printf("\n");
  return 0;
}

int print_sections() {
  using namespace pixelcnn_sample;
  const int64_t most = next();
  const vlae::Plan plan = vlae::parse_plan(kName, next_list());
  for (const Section& section : sections_of(plan, std::vector<int64_t>(plan.stages.size(), 1), most)) {
    std::printf("section");
    for (const size_t s : section) std::printf(" %zu", s);
    std::printf("\n");
  }
  return 0;
}

int print_flow() {
  std::vector<std::vector<int64_t>> degrees(static_cast<size_t>(next()));
  for (auto& layer : degrees) layer = next_list();
  const made_inverse::MadePlan plan = made_inverse::plan_made(kName, degrees);
  size_t block = 0;
  for (size_t q = 0; q < plan.quads.size(); ++q) {
    while (plan.blocks[block + 1].quad <= static_cast<int32_t>(q)) ++block;
    std::printf("quad %zu %d\n", block, plan.quads[q].count);
  }
  for (const made_inverse::Event& event : plan.events)
    std::printf("event %d %d %d\n", event.block, event.count, event.dimension >= 0);
  std::printf("fours %lld\n", static_cast<long long>(plan.fours));
  return 0;
}

}  // namespace

int main() {
  std::string op;
  std::cin >> op;
  return op == "made_inverse" ? print_flow() : op == "sections" ? print_sections() : print_sampler();
}
