#include "sections.h"

#include <algorithm>

#include "../../pixelcnn_sample/reads.h"

namespace vlae::cuda::pixelcnn_sample {

namespace {

// True where a stage reads what another one writes in the same step. A stage behind it in the list is read as it was a step
// before: its own writes go elsewhere, into the place of a wave that nobody reads any more.
bool is_tight(const Plan& plan, size_t stage, int64_t writer, const Tap& tap) {
  if (writer < 0 || writer >= static_cast<int64_t>(stage)) return false;
  return plan.stages[stage].lead >= plan.stages[usize(writer)].lead - tap.dx - plan.slope * tap.dy;
}

// Of each stage how many come before it in a step, of those that wait for each other; a draw waits for all stages before it.
std::vector<int64_t> levels_of(const Plan& plan) {
  std::vector<int64_t> levels(plan.stages.size());
  int64_t least = 0, next = 0;
  auto draw = plan.draws.begin();
  for (size_t s = 0; s < plan.stages.size(); ++s) {
    for (; draw != plan.draws.end() && draw->after <= static_cast<int64_t>(s); ++draw) least = next;
    int64_t& level = levels[s] = least;
    for_reads(plan.stages[s], [&](int64_t buffer, const Tap& tap) {
      for_writers(plan, plan.stages[s].sites, buffer, tap, [&](int64_t writer) {
        if (is_tight(plan, s, writer, tap)) level = std::max(level, levels[usize(writer)] + 1);
      });
    });
    next = std::max(next, level + 1);
  }
  return levels;
}

}  // namespace

std::vector<Section> sections_of(const Plan& plan, const std::vector<int64_t>& places, int64_t most) {
  const std::vector<int64_t> levels = levels_of(plan);
  const auto is_norm = [&](size_t s) { return plan.stages[s].kind == StageKind::norm; };
  std::vector<Section> sections;
  for (int64_t level = 0, left = static_cast<int64_t>(levels.size()); left > 0; ++level) {
    int64_t taken = most;  // a level begins a section
    for (const bool norms : {false, true})
      for (size_t s = 0; s < levels.size(); ++s) {
        if (levels[s] != level || is_norm(s) != norms) continue;
        if (norms || taken + places[s] > most) sections.emplace_back(), taken = 0;
        sections.back().push_back(s);
        taken += places[s];
        --left;
      }
  }
  return sections;
}

}  // namespace vlae::cuda::pixelcnn_sample
