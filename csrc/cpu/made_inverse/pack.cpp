#include "pack.h"

#include <algorithm>
#include <cstring>
#include <numeric>

#include <torch/csrc/stable/ops.h>

#include "../../narrow.h"
#include "../halves.h"

namespace vlae::made_inverse {

namespace {

// A block of steps has about so many units in its widest layer: enough rows to fill the register tiles, few enough for the
// triangle inside the block to be a small part of the work.
constexpr int64_t kBlockUnits = 24;
constexpr int64_t kCopyGrain = 16;  // rows

}  // namespace

PackedMade::PackedMade(const MadeTensors& made) {
  const size_t n = made.weights.size();
  plan_.dim = made.variables.empty() ? made.sizes[0] : static_cast<int64_t>(made.variables.size());
  plan_.params = made.sizes[n] > plan_.dim ? 2 : 1;
  plan_.n_layers = static_cast<int64_t>(n);
  plan_.activation = made.activation;
  plan_.scale = made.scale;
  plan_.storage = made.storage;
  units_.resize(n + 1);
  sort_variables(made);
  find_negatives(made);
  for (size_t l = 0; l <= n; ++l) sort_units(made, l);
  for (size_t l = 1; l <= n; ++l) bind_weights(made, l);
  for (const Units& u : units_) layers_.push_back({u.rows.data(), u.bias.data(), u.order.data(), u.ends.data()});
  plan_.layers = layers_.data();
  cut_blocks();
  place();
}

void PackedMade::sort_variables(const MadeTensors& made) {
  variables_.resize(made.variables.size());
  int64_t first = 0;
  for (const MadeVariable& variable : made.variables) {
    variables_[usize(made.degrees[0][first] - 1)] = variable;
    first += variable.inputs;
  }
  plan_.variables = variables_.empty() ? nullptr : variables_.data();
}

void PackedMade::find_negatives(const MadeTensors& made) {
  for (size_t l = 1; l < made.weights.size(); ++l)
    for (int64_t j = 0; j < made.sizes[l]; ++j)
      if (made.degrees[l][j] < 0) negatives_.push_back(made.degrees[l][j]);
  std::sort(negatives_.begin(), negatives_.end());
  negatives_.erase(std::unique(negatives_.begin(), negatives_.end()), negatives_.end());
  plan_.steps = static_cast<int64_t>(negatives_.size()) + plan_.dim;
}

// The step after which a unit is known; from plan_.steps on: none, as it feeds no output.
int64_t PackedMade::step_of(size_t layer, int64_t degree) const {
  const int64_t count = static_cast<int64_t>(negatives_.size());
  if (layer == 0) return count + degree - 1;
  if (degree >= plan_.dim) return plan_.steps;
  return degree >= 0 ? count + degree : std::lower_bound(negatives_.begin(), negatives_.end(), degree) - negatives_.begin();
}

// Stable, by counting.
void PackedMade::sort_units(const MadeTensors& made, size_t layer) {
  Units& u = units_[layer];
  const int64_t steps = plan_.steps, size = made.sizes[layer];
  std::vector<int64_t> of(usize(size)), next(usize(steps) + 1, 0);  // a unit's step; the place of a step's next unit
  for (int64_t j = 0; j < size; ++j) {
    const int64_t step = of[usize(j)] = step_of(layer, made.degrees[layer][j]);
    if (step < steps) ++next[usize(step) + 1];
  }
  std::partial_sum(next.begin(), next.end(), next.begin());
  // A step's units read the step's units of the layer before, but not the input that the step ends with.
  u.ends.assign(next.begin() + (layer == 0 ? 0 : 1), next.end() - (layer == 0 ? 1 : 0));
  u.order.resize(usize(next.back()));
  for (int64_t j = 0; j < size; ++j)
    if (const int64_t step = of[usize(j)]; step < steps) u.order[usize(next[usize(step)]++)] = j;
  u.in_place = true;
  for (size_t i = 0; i < u.order.size(); ++i) u.in_place &= u.order[i] == static_cast<int64_t>(i);
}

void PackedMade::bind_weights(const MadeTensors& made, size_t layer) {
  Units& u = units_[layer];
  const Units& before = units_[layer - 1];
  const char* weight = static_cast<const char*>(made.weights[layer - 1]);
  const float* bias = made.biases[layer - 1];
  const int64_t bytes = made.storage == Storage::bfloat16 ? 2 : 4;  // of a weight
  const int64_t columns = made.sizes[layer - 1], kept = static_cast<int64_t>(before.order.size());
  const int64_t rows = static_cast<int64_t>(u.order.size());
  for (const int64_t j : u.order) u.bias.push_back(bias[j]);
  for (const int64_t j : u.order) u.rows.push_back(weight + j * columns * bytes);
  if (before.in_place) return;
  u.copy.resize(usize(rows * kept * bytes));
  torch::stable::parallel_for(0, rows, kCopyGrain, [&](int64_t first, int64_t last) {
    for (int64_t r = first; r < last; ++r) {
      const void*& row = u.rows[usize(r)];
      char* to = u.copy.data() + r * kept * bytes;
      const auto copy = [&](auto zero) {
        const int64_t* order = before.order.data();
        for (int64_t k = 0; k < kept; ++k)
          std::memcpy(to + k * bytes, static_cast<const char*>(row) + order[k] * bytes, sizeof zero);
      };
      bytes == 2 ? copy(uint16_t{}) : copy(0.0f);
      row = to;
    }
  });
}

void PackedMade::cut_blocks() {
  blocks_.push_back(0);
  for (int64_t s = 0; s < plan_.steps; ++s) {
    int64_t widest = 0;
    for (size_t l = 1; l < units_.size(); ++l) {
      const std::vector<int64_t>& ends = units_[l].ends;
      const int64_t before = blocks_.back() > 0 ? ends[usize(blocks_.back() - 1)] : 0;
      widest = std::max(widest, ends[usize(s)] - before);
    }
    if (widest > kBlockUnits && s > blocks_.back()) blocks_.push_back(s);
  }
  plan_.n_blocks = plan_.steps > 0 ? static_cast<int64_t>(blocks_.size()) : 0;
  blocks_.push_back(plan_.steps);
  plan_.blocks = blocks_.data();
}

// Of a block in a layer.
int64_t PackedMade::most_units(size_t layer) const {
  const std::vector<int64_t>& ends = units_[layer].ends;
  int64_t most = 0;
  for (size_t b = 0; b < usize(plan_.n_blocks); ++b)
    most = std::max(most, ends[usize(blocks_[b + 1] - 1)] - (b > 0 ? ends[usize(blocks_[b] - 1)] : 0));
  return most;
}

void PackedMade::place() {
  const bool pairs = plan_.storage == Storage::bfloat16;
  plan_.floats = 0;
  for (size_t l = 0; l < units_.size(); ++l) {
    const bool is_kept = l + 1 < units_.size();  // outputs are sums alone
    offsets_.push_back(plan_.floats);
    if (is_kept) plan_.floats += floats_of(plan_.storage, static_cast<int64_t>(units_[l].order.size()));
    sums_.push_back(is_kept && !pairs ? offsets_.back() : plan_.floats);
    if (l > 0 && (pairs || !is_kept)) plan_.floats += most_units(l);
  }
  plan_.offsets = offsets_.data();
  plan_.sums = sums_.data();
}

}  // namespace vlae::made_inverse
