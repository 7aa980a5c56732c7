#include "run.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "../../narrow.h"
#include "../../pixelcnn_sample/waves.h"
#include "../halves.h"
#include "../team.h"
#include "../workers.h"

namespace vlae::pixelcnn_sample {

namespace {

// Products below which a second thread costs more than it brings: starting a team, sharing one wave of one stage.
constexpr double kTeamWork = 1e7;
constexpr double kShareWork = 3e4;
constexpr int64_t kShareRows = 6;  // below that many rows to a part, the weights are read for too little
constexpr int64_t kTileRows = 16;
constexpr int64_t kTileBytes = int64_t{64} << 20;

double stage_work(const Stage& stage) { return static_cast<double>(stage.depth) * static_cast<double>(stage.columns); }

int64_t panels_of(const Stage& stage) { return (stage.vecs + kPanelVecs - 1) / kPanelVecs; }

// Copies the tile's context into its caches and computes conditions from it.
void run_context(const Program& program, const Kernels& kernels, const Tile& tile) {
  const Context& context = program.context;
  for (int64_t i = 0; i < tile.count && context.data; ++i) {
    const Buffer& buffer = program.buffers[context.buffer];
    put_values(buffer.storage, context.data + (tile.first + i) * context.pixels * context.depth, context.pixels, context.depth,
               tile.cache + i * program.sample_floats + buffer.origin);
  }
  for (int64_t s = 0; s < context.n_stages; ++s) kernels.run_stage(program, context.stages[s], {0, 0, 1, 1}, tile, {0, 1});
}

// Runs the waves of a stage that a step asks for.
template <typename RunWave>
void run_stage_at(const Program& program, int64_t step, int64_t s, const RunWave& run_wave) {
  // At the first step a stage that runs ahead catches up with all waves before its own.
  const Sites& sites = program.stages[s].sites;
  const int64_t lead = program.stages[s].lead, last = std::min(step + lead, program.steps - 1);
  int64_t index = next_wave(program, sites, step == 0 ? 0 : step + lead);
  for (; index <= last; index = next_wave(program, sites, index + 1)) run_wave(s, wave_at(program, sites, index));
}

// Moves the cursor to the next draw; false where none is left.
template <typename RunWave>
bool advance(const Program& program, Cursor& at, const RunWave& run_wave) {
  for (; at.step < program.steps; at = {next_step(program, at.step + 1), 0, 0})
    for (;; ++at.stage) {
      if (at.draw < program.n_draws && program.draws[at.draw].after == at.stage) return true;
      if (at.stage == program.n_stages) break;
      run_stage_at(program, at.step, at.stage, run_wave);
    }
  at = {program.steps, 0, 0};
  return false;
}

// Runs the steps of a tile; `run_wave` computes one wave of one stage.
template <typename RunWave>
void run_steps(const Program& program, const Tile& tile, const RunWave& run_wave) {
  for (Cursor at; advance(program, at, run_wave); ++at.draw)
    draw_wave(program, program.draws[at.draw], wave_at(program, kEverywhere, at.step), tile);
}

// In how many parts threads share a wave of a stage: panels first, so that a part reads few weights, then rows.
int count_parts(const Stage& stage, int64_t rows, int threads) {
  if (stage_work(stage) * static_cast<double>(rows) < kShareWork) return 1;
  const int64_t panels = std::min<int64_t>(panels_of(stage), threads);
  const int64_t lines = std::clamp<int64_t>(threads / panels, 1, std::max<int64_t>(1, rows / kShareRows));
  return static_cast<int>(std::min<int64_t>(panels * lines, Parts::kMaxParts));
}

// Enough samples to fill the register blocks; more would only crowd the weights out of the cache.
int64_t tile_samples(const Program& p) {
  const int64_t pixels = p.height * p.width;
  const int64_t waves = std::min(p.steps, pixels);
  const int64_t wanted = (kTileRows * waves + pixels - 1) / pixels;
  const int64_t fit = kTileBytes / (p.sample_floats * static_cast<int64_t>(sizeof(float)));
  return std::max<int64_t>(1, std::min(wanted, fit));
}

// Threads share the waves of every stage; what is too small to share, and the draws, are the first thread's.
void run_shared(const Program& program, const Kernels& kernels, int64_t batch, int threads, float* caches) {
  const Tile tile = {caches, 0, batch};
  const auto parts = std::make_shared<Parts>([&](const Parts::Job& job, int part) {
    const Stage& stage = program.stages[job.stage];
    kernels.run_stage(program, stage, wave_at(program, stage.sites, job.wave), tile, {part, job.parts});
  });
  start_helpers(parts, threads - 1);
  run_context(program, kernels, tile);
  run_steps(program, tile, [&](int64_t s, const Wave& wave) {
    const Stage& stage = program.stages[s];
    const int n = count_parts(stage, wave.pixels * batch, threads);
    n > 1 ? parts->share({s, wave.index, n}) : kernels.run_stage(program, stage, wave, tile, {0, 1});
  });
  parts->close();
}

// How a batch is shared: all threads on one tile, or whole tiles for each.
struct Split {
  int threads;
  bool shared;
  int64_t tiles, most;  // of them, and samples of the largest

  int64_t samples() const { return shared ? most : threads * most; }
};

Split split_of(const Program& program, int64_t batch, int threads) {
  double work = 0;
  for (int64_t s = 0; s < program.n_stages; ++s) work += stage_work(program.stages[s]);
  work *= static_cast<double>(batch * program.height * program.width);
  threads = static_cast<int>(std::min<double>(threads, 1 + work / kTeamWork));
  const int64_t pixels = most_rows(program.height, program.width, program.slope);
  int parts = 1;  // at most, that a wave is shared in: where all are too small, a second thread would only be in the way
  for (int64_t s = 0; s < program.n_stages; ++s)
    parts = std::max(parts, count_parts(program.stages[s], pixels * batch, threads));
  const int sharing = std::min(threads, parts);
  if (batch < sharing) return {sharing, true, 1, batch};
  threads = static_cast<int>(std::min<int64_t>(threads, batch));
  const int64_t fill = tile_samples(program);
  const int64_t tiles = std::min(batch, ((batch + fill - 1) / fill + threads - 1) / threads * threads);
  return {threads, false, tiles, (batch + tiles - 1) / tiles};
}

// Threads take whole tiles.
void run_tiles(const char* op, const Program& program, const Kernels& kernels, int64_t batch, const Split& split,
               float* caches) {
  run_tasks(op, {split.tiles, split.threads, 0}, [&](int64_t index, const Worker& worker) {
    const int64_t first = batch * index / split.tiles;
    const Tile tile = {caches + worker.index * split.most * program.sample_floats, first,
                       batch * (index + 1) / split.tiles - first};
    run_context(program, kernels, tile);
    run_steps(program, tile, [&](int64_t s, const Wave& wave) {
      kernels.run_stage(program, program.stages[s], wave, tile, {0, 1});
    });
  });
}

}  // namespace

int64_t cached_samples(const Program& program, int64_t batch, int threads) {
  return split_of(program, batch, threads).samples();
}

void run_program(const char* op, const Program& program, const Kernels& kernels, int64_t batch, int threads, float* caches) {
  const Split split = split_of(program, batch, threads);
  split.shared ? run_shared(program, kernels, batch, split.threads, caches)
               : run_tiles(op, program, kernels, batch, split, caches);
}

Cursor behind(const Program& program, int64_t step, int64_t draw) { return {step, program.draws[draw].after, draw + 1}; }

Cursor run_to_draw(const char* op, const Program& program, const Kernels& kernels, int64_t batch, int threads, float* caches,
                   Cursor from) {
  const auto run = [&](const Tile& tile) {
    Cursor at = from;
    if (from.step == 0 && from.stage == 0 && from.draw == 0) run_context(program, kernels, tile);
    const auto run_wave = [&](int64_t s, const Wave& wave) {
      kernels.run_stage(program, program.stages[s], wave, tile, {0, 1});
    };
    while (advance(program, at, run_wave) && wave_at(program, kEverywhere, at.step).pixels == 0) ++at.draw;
    return at;
  };
  double work = 0;  // of a step
  for (int64_t s = 0; s < program.n_stages; ++s) work += stage_work(program.stages[s]);
  work *= static_cast<double>(batch * most_rows(program.height, program.width, program.slope));
  threads = static_cast<int>(std::min({1 + work / kTeamWork, static_cast<double>(threads), static_cast<double>(batch)}));
  if (threads <= 1) return run({caches, 0, batch});
  const int64_t tiles = std::min<int64_t>(batch, 2 * threads);
  std::vector<Cursor> ends(usize(tiles));
  run_tasks(op, {tiles, threads, 0}, [&](int64_t index, const Worker&) {
    const int64_t first = batch * index / tiles;
    ends[usize(index)] = run({caches + first * program.sample_floats, first, batch * (index + 1) / tiles - first});
  });
  return ends[0];
}

}  // namespace vlae::pixelcnn_sample
