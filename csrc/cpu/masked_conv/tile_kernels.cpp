// Products of bfloat16 by Intel's AMX: a block of 32 pixels by 32 columns in four tiles of sums, 32 products at a time.
#include "../activate.h"
#include "../long_sum.h"
#include "../transpose.h"
#include "../values.h"
#include "tiles.h"

namespace vlae::masked_conv::VLAE_ISA {

using namespace vlae::VLAE_ISA;

namespace {

static_assert(kLanes == kTileSide);

// Tiles 0 to 3 hold sums [2 of pixels][2 of columns], 4 and 5 pixels, 6 and 7 weights. All are whole: 16 rows of 64 bytes.
class Tiles {
 public:
  Tiles() {
    alignas(64) uint8_t config[64] = {1};
    for (int tile = 0; tile < 8; ++tile) config[16 + 2 * tile] = 64, config[48 + tile] = 16;
    asm volatile("" ::"r"(config) : "memory");  // GCC does not know that the next one reads all of it
    _tile_loadconfig(config);
  }
  ~Tiles() { _tile_release(); }
  Tiles(const Tiles&) = delete;
  Tiles& operator=(const Tiles&) = delete;
};

// GCC does not know that the intrinsics read memory: what was stored before must be there.
inline void stored_before() { asm volatile("" ::: "memory"); }

inline void multiply_tiles(const Half* left, int64_t left_row_bytes, int64_t left_tile, const Half* right) {
  constexpr int64_t kTileHalves = 2 * kTileFloats, kRowBytes = 64;
  _tile_loadd(4, left, left_row_bytes);
  _tile_loadd(6, right, kRowBytes);
  _tile_loadd(7, right + kTileHalves, kRowBytes);
  _tile_loadd(5, left + left_tile, left_row_bytes);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  _tile_dpbf16ps(2, 5, 6);
  _tile_dpbf16ps(3, 5, 7);
}

constexpr int64_t kHalvesOfRegister = 2 * kLanes;

inline __mmask32 first_halves(int64_t count) { return static_cast<__mmask32>((uint64_t{1} << count) - 1); }

inline void copy(const Half* from, int64_t count, Half* to) {
  for (; count >= kHalvesOfRegister; count -= kHalvesOfRegister, from += kHalvesOfRegister, to += kHalvesOfRegister)
    _mm512_storeu_si512(to, _mm512_loadu_si512(from));
  if (count > 0) {
    const __mmask32 some = first_halves(count);
    _mm512_mask_storeu_epi16(to, some, _mm512_maskz_loadu_epi16(some, from));
  }
}

inline void clear(Half* to, int64_t count) {
  for (; count >= kHalvesOfRegister; count -= kHalvesOfRegister, to += kHalvesOfRegister)
    _mm512_storeu_si512(to, _mm512_setzero_si512());
  if (count > 0) _mm512_mask_storeu_epi16(to, first_halves(count), _mm512_setzero_si512());
}

inline int64_t within(int64_t n, int64_t most) { return n < 0 ? 0 : n > most ? most : n; }

// The windows of the pixels first .. first + count - 1, depth halves apart.
void read_windows(const Window& w, const WindowData& data, int64_t first, int64_t count, Half* to) {
  const int64_t width = w.image.width, height = w.image.height;
  const int64_t behind = w.products + w.context_channels;
  int64_t i = first / width % height, j = first % width;
  for (int64_t pixel = first; pixel < first + count; ++pixel, to += w.depth) {
    for (const TapRun* run = w.runs; run != w.runs + w.n_runs; ++run) {
      Half* at = to + run->k;
      if (i + run->dy < 0 || i + run->dy >= height) {
        clear(at, run->taps * w.channels);
        continue;
      }
      const int64_t left = within(-(j + run->dx), run->taps),
                    end = run->taps - within(j + run->dx + run->taps - width, run->taps);
      if (left > 0) clear(at, left * w.channels);
      if (left < end)
        copy(data.map + (pixel + run->dy * width + run->dx + left) * w.channels, (end - left) * w.channels,
             at + left * w.channels);
      if (end < run->taps) clear(at + end * w.channels, (run->taps - end) * w.channels);
    }
    if (data.context) copy(data.context + pixel * w.context_channels, w.context_channels, to + w.products);
    clear(to + behind, w.depth - behind);
    if (++j == width) j = 0, i = i + 1 == height ? 0 : i + 1;
  }
}

inline Vec half_vec(const Half* from, int64_t count) { return Bfloat16::load(reinterpret_cast<const float*>(from), 0, count); }
inline void store_half(Half* to, Vec v, int64_t count) { Bfloat16::store(reinterpret_cast<float*>(to), 0, v, count); }

struct Place {
  int64_t pixel, channel, count;
};

inline void finish(const TileGather& g, const TileGatherData& data, const Place& at, Vec activated) {
  const int64_t offset = at.pixel * g.out_channels + at.channel;
  if (data.sums) return store_some(data.sums + offset, activated, at.count);
  if (data.activated) store_half(data.activated + offset, activated, at.count);
  store_half(data.out + offset, data.residual ? activated + half_vec(data.residual + offset, at.count) : activated, at.count);
}

// sums: [pixel][2 vectors of columns] of one panel.
void finish_panel(const TileGather& g, const TileGatherData& data, int64_t panel, int64_t first, int64_t count,
                  const float* sums) {
  const bool gate = g.activation == Activation::gate;
  const float* bias = g.bias + panel * kTileBlock;
  const int64_t pixels = g.window.image.height * g.window.image.width;
  for (int64_t pixel = first; pixel < first + count; ++pixel, sums += kTileBlock) {
    const Half* cond = data.cond ? data.cond + pixel / pixels * data.cond_image + pixel % pixels * data.cond_pixel : nullptr;
    const auto before = [&](int half, int64_t column, int64_t some) {
      const Vec sum = load(sums + half * kLanes) + load(bias + half * kLanes);
      return cond ? sum + half_vec(cond + column, some) : sum;
    };
    if (gate) {
      const int64_t channel = panel * kLanes, some = least(kLanes, g.out_channels - channel);
      const Vec a = before(0, channel, some), b = before(1, g.out_channels + channel, some);
      finish(g, data, {pixel, channel, some}, Bfloat16::gate(a, b));
      if (data.sigmoid) store_half(data.sigmoid + pixel * g.out_channels + channel, sigmoid(b), some);
      continue;
    }
    for (int half = 0; half < 2; ++half) {
      const int64_t channel = panel * kTileBlock + half * kLanes, some = least(kLanes, g.out_channels - channel);
      if (some > 0) finish(g, data, {pixel, channel, some}, apply(g.activation, before(half, channel, some)));
    }
  }
}

// sums[pixel][2 vectors of columns] of a block: products() multiplies all tiles into the four of sums.
template <typename Products>
void sum_block(const Products& products, float* sums) {
  constexpr int64_t kRowBytes = 4 * kTileBlock;
  stored_before();
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  products();
  _tile_stored(0, sums, kRowBytes);
  _tile_stored(1, sums + kTileSide, kRowBytes);
  _tile_stored(2, sums + kTileSide * kTileBlock, kRowBytes);
  _tile_stored(3, sums + kTileSide * kTileBlock + kTileSide, kRowBytes);
}

// Of pixels whose numbers lie `stride` halves apart, with their first `count` products; returns the weights behind.
inline const Half* multiply_run(const Half* pixels, int64_t stride, int64_t count, const Half* weight) {
  for (int64_t k = 0; k < count; k += kTileBlock, weight += kTileBlock * kTileBlock)
    multiply_tiles(pixels + k, 2 * stride, kTileSide * stride, weight);
  return weight;
}

void gather(const TileGather& g, const TileGatherData& data, int64_t first, int64_t last, Half* scratch) noexcept {
  const Tiles tiles;
  alignas(64) float sums[kTileBlock * kTileBlock];
  const int64_t depth = g.window.depth;
  for (int64_t pixel = first; pixel < last; pixel += kTileBlock) {
    const int64_t count = least(kTileBlock, last - pixel);
    read_windows(g.window, data.from, pixel, count, scratch);
    clear(scratch + count * depth, (kTileBlock - count) * depth);
    for (int64_t panel = 0; panel < g.panels; ++panel) {
      sum_block([&] { multiply_run(scratch, depth, depth, g.weight + panel * depth * kTileBlock); }, sums);
      finish_panel(g, data, panel, pixel, count, sums);
    }
  }
}

// Pixels of a padded band in its order: what is summed for the border of a row is not stored.
void gather_in_place(const TileGather& g, const TileGatherData& data, int64_t n, const Band& band, Half* scratch) noexcept {
  const Tiles tiles;
  alignas(64) float sums[kTileBlock * kTileBlock];
  const Window& w = g.window;
  const int64_t width = w.image.width, row = padded_row(w), padded = row / w.channels, first = n * w.image.height * width;
  const int64_t context_depth = w.context_depth();
  Half* const contexts = scratch + band_halves(w, band.rows);
  const Half* own = scratch + w.reach.above * row + w.reach.left * w.channels;  // pixel (band.first, 0)
  // body(place in the block, pixel, count) of the pixels that are no border, row by row
  const auto each_row = [&](int64_t block, const auto& body) {
    for (int64_t at = block; at < block + kTileBlock;) {
      const int64_t i = at / padded, j = at % padded, end = least(block + kTileBlock, (i + 1) * padded);
      if (i < band.rows && j < width) body(at - block, first + (band.first + i) * width + j, least(end - at, width - j));
      at = end;
    }
  };
  for (int64_t block = 0; block < (band.rows - 1) * padded + width; block += kTileBlock) {
    if (context_depth > 0) {
      clear(contexts, kTileBlock * context_depth);
      each_row(block, [&](int64_t at, int64_t pixel, int64_t count) {
        for (int64_t r = 0; r < count; ++r)
          copy(data.from.context + (pixel + r) * w.context_channels, w.context_channels, contexts + (at + r) * context_depth);
      });
    }
    for (int64_t panel = 0; panel < g.panels; ++panel) {
      const auto products = [&] {
        const Half* weight = g.weight + panel * w.depth * kTileBlock;
        for (const TapRun* run = w.runs; run != w.runs + w.n_runs; ++run)
          weight = multiply_run(own + block * w.channels + run->dy * row + run->dx * w.channels, w.channels,
                                run->taps * w.channels, weight);
        multiply_run(contexts, context_depth, context_depth, weight);
      };
      sum_block(products, sums);
      each_row(block, [&](int64_t at, int64_t pixel, int64_t count) {
        finish_panel(g, data, panel, pixel, count, sums + at * kTileBlock);
      });
    }
  }
}

void slope(const TileSlope& s, int64_t first, int64_t last) noexcept {
  const bool gate = s.activation == Activation::gate;
  const int64_t columns = gate ? 2 * s.channels : s.channels;
  for (int64_t channel = 0; channel < s.channels; channel += kLanes) {
    const int64_t count = least(kLanes, s.channels - channel);
    LongSum sums[2];
    for (int64_t pixel = first; pixel < last; ++pixel) {
      const int64_t at = pixel * s.channels + channel;
      const Vec grad = half_vec(s.grad + at, count);
      Vec of_half[2];
      if (gate)
        times_gate_slope(grad, half_vec(s.out + at, count), half_vec(s.sigmoid + at, count), of_half);
      else
        of_half[0] = s.activation == Activation::none ? grad : times_slope(s.activation, grad, half_vec(s.out + at, count));
      for (int half = 0; half < (gate ? 2 : 1); ++half) {
        if (s.slope) store_half(s.slope + pixel * columns + half * s.channels + channel, of_half[half], count);
        sums[half].add(of_half[half]);
      }
    }
    for (int half = 0; s.sums && half < (gate ? 2 : 1); ++half)
      store_some(s.sums + half * s.channels + channel, sums[half].total, count);
  }
}

// Up to 32 rows of a matrix; behind them, and behind its columns, it is 0.
struct Rows {
  const Half* data;
  int64_t count, columns;
};

// Rows 2 i and 2 i + 1 as pairs, [16 columns][2], from a column on.
inline Vec pair_of_rows(const Rows& rows, int64_t column, int64_t pair) {
  const uint32_t some = (1u << within(rows.columns - column, kLanes)) - 1;
  const auto row = [&](int64_t i) {
    const __mmask16 mask = static_cast<__mmask16>(i < rows.count ? some : 0);
    return widen((HalfVec)_mm256_maskz_loadu_epi16(mask, rows.data + i * rows.columns + column));
  };
  return (Vec)(row(2 * pair) | row(2 * pair + 1) << 16);
}

// Tiles of pairs of rows by columns, or transposed: columns by pairs of rows.
template <bool Transposed>
void pair_tiles(const Rows& rows, int64_t tiles, Half* to) {
  for (int64_t tile = 0; tile < tiles; ++tile) {
    Vec square[kLanes];
    for (int pair = 0; pair < kLanes; ++pair) square[pair] = pair_of_rows(rows, tile * kTileSide, pair);
    if constexpr (Transposed) transpose(square);
    for (int row = 0; row < kLanes; ++row, to += kHalvesOfRegister) store(reinterpret_cast<float*>(to), square[row]);
  }
}

// left: [block][column tile], right: [block][product tile], each of 512 halves.
void add_products(int64_t blocks, int64_t column_tiles, int64_t product_tiles, const Half* left, const Half* right,
                  float* sums) {
  constexpr int64_t kTileHalves = 2 * kTileFloats;
  for (int64_t column = 0; column < column_tiles; column += 2)
    for (int64_t product = 0; product < product_tiles; product += 2) {
      float *upper = sums + (column * product_tiles + product) * kTileFloats, *lower = upper + product_tiles * kTileFloats;
      _tile_loadd(0, upper, 64);
      _tile_loadd(1, upper + kTileFloats, 64);
      _tile_loadd(2, lower, 64);
      _tile_loadd(3, lower + kTileFloats, 64);
      for (int64_t block = 0; block < blocks; ++block)
        multiply_tiles(left + (block * column_tiles + column) * kTileHalves, 64, kTileHalves,
                       right + (block * product_tiles + product) * kTileHalves);
      _tile_stored(0, upper, 64);
      _tile_stored(1, upper + kTileFloats, 64);
      _tile_stored(2, lower, 64);
      _tile_stored(3, lower + kTileFloats, 64);
    }
}

void outer(const TileOuter& o, const TileOuterData& data, int64_t first, int64_t last, Half* scratch) noexcept {
  const Tiles tiles;
  const int64_t depth = o.window.depth, columns = whole_blocks(o.columns);
  const int64_t product_tiles = depth / kTileSide, column_tiles = columns / kTileSide;
  Half *windows = scratch, *right = windows + kTileBlock * depth, *left = right + kOuterBlocks * kTileBlock * depth;
  for (int64_t pixel = first; pixel < last;) {
    int64_t blocks = 0;
    for (; blocks < kOuterBlocks && pixel < last; ++blocks, pixel += kTileBlock) {
      const int64_t count = least(kTileBlock, last - pixel);
      read_windows(o.window, data.from, pixel, count, windows);
      pair_tiles<false>({windows, count, depth}, product_tiles, right + blocks * kTileBlock * depth);
      pair_tiles<true>({data.slope + pixel * o.columns, count, o.columns}, column_tiles, left + blocks * kTileBlock * columns);
    }
    stored_before();
    add_products(blocks, column_tiles, product_tiles, left, right, data.sums);
  }
}

}  // namespace

TileKernels tile_kernels() { return {gather, gather_in_place, slope, outer}; }

}  // namespace vlae::masked_conv::VLAE_ISA
