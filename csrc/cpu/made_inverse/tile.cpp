// The inverse of a MADE for a tile of samples, for one instruction set.
//
// The samples are in the lanes: activations lie [unit][vecs x kLanes], weights are read where they are, row by row, and each
// serves vecs vectors. Steps go in blocks. What a block's units take from the units before the block is one dense product,
// up to 8 rows x 4 vectors in registers; only the small triangle inside the block goes step by step. So the activations,
// which fill the second cache, are read once per block and register tile and not once per step.
//
// A unit adds its products in an order that the degrees alone decide, kChunk of them in an accumulator at a time: a sample's
// bits depend neither on its batch nor on the number of threads.
//
// In bfloat16 weights are read where they are as well, two at a time, and activations lie in pairs of units that follow each
// other. A unit's sum is float32 until its activation is rounded.
#include <utility>

#include "../values.h"
#include "draw.h"
#include "plan.h"

namespace vlae::made_inverse::VLAE_ISA {

using namespace vlae::VLAE_ISA;

namespace {

constexpr int kAccumulators = kScalarsInRegisters ? 21 : kManyRegisters ? 24 : 12;  // 7 x 3, 3 inputs and 7 weights are 31
constexpr int kMostRows = 8;     // more rows a power of two apart would evict one another from the first cache
constexpr int64_t kChunk = 128;  // longer sums would round worse than those of a blocked matrix product

// One unit of a pair, of weights that lie anywhere.
template <typename Number>
Number read(const void* weights, int64_t index) {
  Number value;
  __builtin_memcpy(&value, static_cast<const char*>(weights) + index * static_cast<int64_t>(sizeof value), sizeof value);
  return value;
}

// out[r] += sum over units k in [begin, end) of rows[r][k] * in[k], where `apart` says to sum first and then add. Half a pair
// at an end is multiplied by 0 in the place of the other half, which may be anything: so may the weight behind the last.
template <typename Values, int Rows, int Vecs>
[[gnu::noinline]] void product(const void* const* rows, int64_t begin, int64_t end, const float* in, bool apart, float* out) {
  constexpr int kWidth = Vecs * kLanes;
  constexpr bool kPairs = Values::kTogether == 2;
  Vec acc[Rows][Vecs];
  const void* w[Rows];
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r) {
    w[r] = rows[r];
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) acc[r][v] = apart ? Vec{} : load(out + r * kWidth + v * kLanes);
  }
  int64_t k = begin / Values::kTogether;
  const float* a = in + k * kWidth;
  const auto add_half = [&](bool second) {
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r) {
      const float weight = Bfloat16::alone(read<uint16_t>(w[r], 2 * k + second), second);
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v)
        acc[r][v] = Values::multiply_add(weight, Bfloat16::half(load(a + v * kLanes), second), acc[r][v]);
    }
    ++k;
    a += kWidth;
  };
  if (kPairs && begin % 2 && begin < end) add_half(true);
  for (; k < end / Values::kTogether; ++k, a += kWidth) {
    Vec x[Vecs];
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) x[v] = load(a + v * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < Vecs; ++v) acc[r][v] = Values::multiply_add(read<float>(w[r], k), x[v], acc[r][v]);
  }
  if (kPairs && end % 2 && begin < end) add_half(false);
#pragma GCC unroll 8
  for (int r = 0; r < Rows; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < Vecs; ++v) {
      float* to = out + r * kWidth + v * kLanes;
      store(to, apart ? load(to) + acc[r][v] : acc[r][v]);
    }
}

using Product = void (*)(const void* const* rows, int64_t begin, int64_t end, const float* in, bool apart, float* out);

template <typename Values, int Vecs>
struct Products {
  static constexpr int kRows = kAccumulators / Vecs < kMostRows ? kAccumulators / Vecs : kMostRows;

  template <int... R>
  static Product of(int rows, std::integer_sequence<int, R...>) {
    static constexpr Product by_rows[] = {product<Values, R + 1, Vecs>...};
    return by_rows[rows - 1];
  }

  static void run(const void* const* rows, int64_t count, int64_t begin, int64_t end, const float* in, float* out) {
    const int64_t groups = (count + kRows - 1) / kRows;
    for (int64_t g = 0; g < groups; ++g) {
      const int64_t first = count * g / groups, n = count * (g + 1) / groups - first;
      const Product multiply = of(static_cast<int>(n), std::make_integer_sequence<int, kRows>());
      for (int64_t k = begin, next; k < end; k = next) {
        next = k - k % Values::kTogether + kChunk;  // no pair is in two chunks
        multiply(rows + first, k, least(next, end), in, k > begin, out + first * Vecs * kLanes);
      }
    }
  }
};

// log(d eps / d x) of the transforms other than exp. Lane by lane: a few for a dimension, which costs thousands of products.
[[gnu::noinline]] Vec log_slopes(MadeScale scale, Vec raw) {
  Vec out;
  for (int lane = 0; lane < kLanes; ++lane) {
    const float s = raw[lane], size = __builtin_fabsf(s);
    if (scale == MadeScale::exp_slope)
      out[lane] = s;
    else if (scale == MadeScale::clipped_exp)
      out[lane] = s / (1.0f + size / kLogOfLeast);
    else if (scale == MadeScale::softplus)
      out[lane] = __builtin_logf((s > 0 ? s : 0.0f) + __builtin_log1pf(__builtin_expf(-size)) + kLeastSlope);
    else
      out[lane] = __builtin_logf(1.0f / (1.0f + __builtin_expf(-s - 2.0f)) + kLeastSlope);
  }
  return out;
}

// exp where it is clamped too: up to infinity, down to 0.
Vec exp_to_the_ends(Vec x) {
  const Vec root = exp(x * splat(0.5f));
  return ((x > splat(-87.0f)) & (x < splat(88.0f))) ? exp(x) : root * root;
}

template <typename Values, int Vecs>
class Inverse {
 public:
  Inverse(const MadePlan& plan, const MadeTile& tile) : plan_(plan), tile_(tile) {}

  void run() {
    if (!plan_.variables) read_eps();
    for (int64_t b = 0; b < plan_.n_blocks; ++b) {
      const int64_t first = plan_.blocks[b], last = plan_.blocks[b + 1];
      for (int64_t l = 1; l <= plan_.n_layers; ++l) start(l, first, last);
      for (int64_t s = first; s < last; ++s) step(first, s);
    }
    if (!plan_.variables) write_x();
    for (int64_t lane = 0; lane < tile_.count; ++lane)
      tile_.log_det[tile_.first + lane] = log_det_[lane / kLanes].total[lane % kLanes];
  }

 private:
  static constexpr int64_t kWidth = Vecs * kLanes;
  static constexpr bool kPairs = Values::kTogether == 2;
  using Number = typename Values::Number;

  float* at(int64_t layer) const { return tile_.scratch + plan_.offsets[layer] * kWidth; }
  int64_t end(int64_t layer, int64_t step) const { return step < 0 ? 0 : plan_.layers[layer].ends[step]; }

  // The sums of a unit. Those of one block are all that is kept of the outputs, and of pairs, which lie elsewhere.
  float* unit(int64_t layer, int64_t index, int64_t first_step) const {
    const int64_t gone = kPairs || layer == plan_.n_layers ? end(layer, first_step - 1) : 0;
    return tile_.scratch + (plan_.sums[layer] + index - gone) * kWidth;
  }

  // Unit `index` among pairs; the second of a pair is not known before the first.
  float* pair(int64_t layer, int64_t index) const { return at(layer) + index / 2 * kWidth; }

  // The lanes behind the last sample repeat it: they do no harm and need no care.
  int64_t sample(int64_t lane) const { return tile_.first + least(lane, tile_.count - 1); }

  // x holds eps until it is overwritten.
  void read_eps() const {
    for (int64_t lane = 0; lane < kWidth; ++lane) {
      const Number* eps = static_cast<const Number*>(tile_.eps) + sample(lane) * plan_.dim;
      for_inputs(lane, [&](int64_t unit, Number& input) { input = eps[unit]; });
    }
  }

  void write_x() const {
    for (int64_t lane = 0; lane < tile_.count; ++lane) {
      Number* x = static_cast<Number*>(tile_.x) + (tile_.first + lane) * plan_.dim;
      for_inputs(lane, [&](int64_t unit, Number& input) { x[unit] = input; });
    }
  }

  // Calls body(where a dimension is in the tensors, where it is among the inputs) for each of a lane.
  template <typename Body>
  void for_inputs(int64_t lane, const Body& body) const {
    constexpr int64_t kTogether = Values::kTogether;
    const int64_t* units = plan_.layers[0].units;
    Number* input = reinterpret_cast<Number*>(at(0)) + lane * kTogether;
    for (int64_t i = 0; i < plan_.dim; i += kTogether, input += kWidth * kTogether) {
      body(units[i], input[0]);
      if (kPairs && i + 1 < plan_.dim) body(units[i + 1], input[1]);
    }
  }

  // bias, cond, and all products with units before the block.
  void start(int64_t layer, int64_t first, int64_t last) {
    const MadeLayer& here = plan_.layers[layer];
    const int64_t begin = end(layer, first - 1), stop = end(layer, last - 1);
    float* out = unit(layer, begin, first);
    for (int64_t j = begin; j < stop; ++j) {
      float* row = out + (j - begin) * kWidth;
      for (int v = 0; v < Vecs; ++v) store(row + v * kLanes, splat(here.bias[j]));
      if (layer == 1 && tile_.cond)
        for (int64_t lane = 0; lane < kWidth; ++lane) row[lane] += tile_.cond[sample(lane) * tile_.cond_size + here.units[j]];
    }
    Products<Values, Vecs>::run(here.rows + begin, stop - begin, 0, end(layer - 1, first - 1), at(layer - 1), out);
  }

  // The units of one step, layer by layer, then the next dimension of x.
  void step(int64_t first, int64_t step) {
    for (int64_t l = 1; l <= plan_.n_layers; ++l) {
      const int64_t begin = end(l, step - 1), count = end(l, step) - begin;
      float* out = unit(l, begin, first);
      Products<Values, Vecs>::run(plan_.layers[l].rows + begin, count, end(l - 1, first - 1), end(l - 1, step), at(l - 1), out);
      if (l == plan_.n_layers) continue;
      activate(plan_.activation, count * Vecs, out);
      for (int64_t j = 0; kPairs && j < count; ++j)
        for (int v = 0; v < Vecs; ++v) {
          float* to = pair(l, begin + j) + v * kLanes;
          const bool second = (begin + j) % 2;
          store(to, Bfloat16::joined(second ? load(to) : Vec{}, second, load(out + j * kWidth + v * kLanes)));
        }
    }
    const int64_t i = step - (plan_.steps - plan_.dim);
    if (i < 0) return;
    const float* outputs = unit(plan_.n_layers, end(plan_.n_layers, step - 1), first);
    if (plan_.variables)
      draw(plan_.variables[i], outputs, at(0) + end(0, step) * kWidth);
    else
      transform(i, outputs);
  }

  Vec get_input(int64_t i, int v) const {
    if constexpr (kPairs) return Bfloat16::widened(load(pair(0, i) + v * kLanes), i % 2);
    return load(at(0) + i * kWidth + v * kLanes);
  }

  void put_input(int64_t i, int v, Vec x) const {
    float* to = (kPairs ? pair(0, i) : at(0) + i * kWidth) + v * kLanes;
    store(to, kPairs ? Bfloat16::joined(load(to), i % 2, x) : x);
  }

  // Draws a variable from its logits and writes the row of its table that the network is given.
  void draw(const MadeVariable& variable, const float* logits, float* inputs) {
    for (int v = 0; v < Vecs; ++v, logits += kLanes, inputs += kLanes) {
      Vec u;
      for (int lane = 0; lane < kLanes; ++lane)
        u[lane] = static_cast<const float*>(tile_.eps)[sample(v * kLanes + lane) * plan_.dim + variable.index];
      const Draw drawn = draw_categorical(u, logits, kWidth, variable.levels);
      log_det_[v].add(drawn.log_prob);
      for (int lane = 0; lane < kLanes; ++lane) {
        const float* row = variable.table + static_cast<int64_t>(drawn.level[lane]) * variable.inputs;
        for (int64_t e = 0; e < variable.inputs; ++e) inputs[e * kWidth + lane] = row[e];
        static_cast<float*>(tile_.x)[sample(v * kLanes + lane) * plan_.dim + variable.index] = drawn.level[lane];
      }
    }
  }

  // x of eps in its place; log_det += log(d eps / d x).
  void transform(int64_t i, const float* params) {
    for (int v = 0; v < Vecs; ++v, params += kLanes) {
      const Vec shift = load(params), eps = get_input(i, v);
      if (plan_.scale == MadeScale::bernoulli) {
        const Vec drawn = draw_bernoulli(eps, shift);
        put_input(i, v, drawn);
        log_det_[v].add(log_sigmoid(drawn > splat(0.5f) ? shift : -shift));
        continue;
      }
      if (plan_.params == 1) {
        put_input(i, v, shift + eps);
        continue;
      }
      const Vec raw = load(params + kWidth);
      const bool plain = plan_.scale == MadeScale::exp;
      const Vec log = plain ? -raw : log_slopes(plan_.scale, raw);
      const Vec scale = exp_to_the_ends(-log);
      put_input(i, v, plain ? scale * eps + shift : scale * (eps - shift));
      log_det_[v].add(log);
    }
  }

  const MadePlan& plan_;
  const MadeTile& tile_;
  LongSum log_det_[Vecs];
};

template <typename Values>
void run_in(const MadePlan& plan, const MadeTile& tile) {
  switch (tile.vecs) {
    case 1: return Inverse<Values, 1>(plan, tile).run();
    case 2: return Inverse<Values, 2>(plan, tile).run();
    case 3: return Inverse<Values, 3>(plan, tile).run();
    default: return Inverse<Values, kMadeMaxVecs>(plan, tile).run();
  }
}

void run_tile(const MadePlan& plan, const MadeTile& tile) noexcept {
  (plan.storage == Storage::bfloat16 ? run_in<Bfloat16> : run_in<Float32>)(plan, tile);
}

}  // namespace

Kernels kernels() { return {kLanes, run_tile}; }

}  // namespace vlae::made_inverse::VLAE_ISA
