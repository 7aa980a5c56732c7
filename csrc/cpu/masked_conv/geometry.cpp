#include "geometry.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "../../checks.h"
#include "../../narrow.h"
#include "../panels.h"

namespace vlae::masked_conv {
namespace {

constexpr int64_t kMinBands = 16;        // so that every core has work where a batch is small ...
constexpr int64_t kMinBandPixels = 128;  // ... but not less than this, or weights are read for too little

// Neighbouring taps of one row.
struct Group {
  int64_t dy, dx, first, count;
};

std::vector<Group> group(const std::vector<Tap>& taps) {
  std::vector<Group> groups;
  for (size_t t = 0; t < taps.size(); ++t) {
    const bool next = t > 0 && taps[t].dy == taps[t - 1].dy && taps[t].dx == taps[t - 1].dx + 1;
    if (!next) groups.push_back({taps[t].dy, taps[t].dx, static_cast<int64_t>(t), 0});
    ++groups.back().count;
  }
  return groups;
}

constexpr int64_t kPartProducts = 128;  // of a sum; a long one is cut, for it errs more

std::string name_of(int64_t place, const Tap& tap) { return text("place ", place, " at (", tap.dy, ", ", tap.dx, ")"); }

}  // namespace

Taps parse_taps(const char* op, const std::vector<int64_t>& words, int64_t kernel, const Image& image) {
  VLAE_CHECK(words.size() % 3 == 0, op, "taps", "be triples of place, dy and dx", text(words.size(), " numbers"));
  Taps taps = {{}, {}, kernel, {0, 0, 0, 0}};
  const auto inside = [](int64_t distance, int64_t size) { return -size < distance && distance < size; };
  const int64_t area = kernel * kernel, height = std::max<int64_t>(image.height, 1), width = std::max<int64_t>(image.width, 1);
  for (size_t t = 0; t < words.size(); t += 3) {
    const int64_t place = words[t];
    const Tap tap = {words[t + 1], words[t + 2]};
    VLAE_CHECK(0 <= place && place < area, op, "taps", text("have places of 0 to ", area - 1), name_of(place, tap));
    VLAE_CHECK(inside(tap.dy, height) && inside(tap.dx, width), op, "taps",
               text("read within an image of ", height, " x ", width), name_of(place, tap));
    if (t > 0) {
      const Tap& before = taps.list.back();
      const bool later = before.dy < tap.dy || (before.dy == tap.dy && before.dx < tap.dx);
      VLAE_CHECK(later && taps.places.back() < place, op, "taps", "be in raster order",
                 text(name_of(place, tap), " behind ", name_of(taps.places.back(), before)));
    }
    taps.list.push_back(tap);
    taps.places.push_back(place);
    taps.reach.above = std::max(taps.reach.above, -tap.dy);
    taps.reach.below = std::max(taps.reach.below, tap.dy);
    taps.reach.left = std::max(taps.reach.left, -tap.dx);
    taps.reach.right = std::max(taps.reach.right, tap.dx);
  }
  return taps;
}

Reach mirrored(const Reach& reach) { return {reach.below, reach.above, reach.right, reach.left}; }

void cut_parts(Products& products) {
  const int64_t depth = static_cast<int64_t>(products.from.size());
  const int64_t parts = std::clamp<int64_t>((depth + kPartProducts - 1) / kPartProducts, 1, kMaxParts);
  const int64_t most = (depth + parts - 1) / parts;
  Products cut;
  int64_t end = most;
  for (size_t r = 0; r < products.runs.size(); ++r) {
    Run run = products.runs[r];
    while (run.length > 0) {
      if (run.weight == end) cut.ends.push_back(static_cast<int>(cut.runs.size())), end += most;
      const int64_t length = std::min(run.length, end - run.weight);
      cut.runs.push_back({run.offset, run.weight, length});
      cut.dy.push_back(products.dy[r]);
      run = {run.offset + length, run.weight + length, run.length - length};
    }
  }
  cut.ends.push_back(static_cast<int>(cut.runs.size()));
  products.runs = std::move(cut.runs), products.dy = std::move(cut.dy), products.ends = std::move(cut.ends);
}

std::vector<Run> context_parts(int64_t first, int64_t channels) {
  const int64_t parts = std::clamp<int64_t>((channels + kPartProducts - 1) / kPartProducts, 1, kMaxParts);
  std::vector<Run> runs;
  for (int64_t part = 0; part < parts; ++part) {
    const int64_t from = channels * part / parts, to = channels * (part + 1) / parts;
    if (from < to) runs.push_back({from, first + from, to - from});
  }
  return runs;
}

Products forward_products(const Taps& taps, int64_t channels, int64_t columns, int64_t row) {
  Products products;
  for (int64_t c = 0; c < columns; ++c) products.base.push_back(c * channels * taps.kernel * taps.kernel);
  for (const Group& g : group(taps.list)) {
    products.runs.push_back({g.dy * row + g.dx * channels, g.first * channels, g.count * channels});
    products.dy.push_back(g.dy);
  }
  for (const int64_t place : taps.places)
    for (int64_t c = 0; c < channels; ++c) products.from.push_back(c * taps.kernel * taps.kernel + place);
  return products;
}

namespace {

// Products of one plane of a slope with the weights of one tap.
void add_plane(const Slope& slope, int64_t plane, int64_t lanes, int64_t column_stride, int64_t place, Products& products) {
  for (int64_t lane = 0; lane < slope.pixel; ++lane) {
    const int64_t vec = plane * slope.vecs + lane / lanes;
    const int64_t column = column_of(slope.activation, slope.channels, vec, lane % lanes, lanes);
    products.from.push_back(column < 0 ? -1 : column * column_stride + place);
  }
}

}  // namespace

Products grad_products(const Taps& taps, int64_t channels, const Slope& slope, int64_t lanes) {
  std::vector<Tap> mirror;
  for (auto tap = taps.list.rbegin(); tap != taps.list.rend(); ++tap) mirror.push_back({-tap->dy, -tap->dx});
  const int64_t pixel = slope.pixel, row = (slope.image.width + slope.reach.left + slope.reach.right) * pixel;
  const int64_t area = taps.kernel * taps.kernel;
  Products products;
  for (int64_t c = 0; c < channels; ++c) products.base.push_back(c * area);
  for (const Group& g : group(mirror)) {
    for (int64_t plane = 0; plane < slope.planes; ++plane) {
      products.runs.push_back({plane * slope.plane_floats + g.dy * row + g.dx * pixel,
                               static_cast<int64_t>(products.from.size()), g.count * pixel});
      products.dy.push_back(g.dy);
      for (int64_t t = g.first; t < g.first + g.count; ++t)
        add_plane(slope, plane, lanes, channels * area, taps.places[mirror.size() - 1 - usize(t)], products);
    }
  }
  cut_parts(products);
  return products;
}

Products spread_products(const Taps& taps, int64_t channels, const Slope& slope, int64_t lanes) {
  const int64_t area = taps.kernel * taps.kernel;
  Products products;
  for (const int64_t place : taps.places)
    for (int64_t c = 0; c < channels; ++c) products.base.push_back(c * area + place);
  for (int64_t plane = 0; plane < slope.planes; ++plane) {
    products.runs.push_back({plane * slope.plane_floats, plane * slope.pixel, slope.pixel});
    products.dy.push_back(0);
    add_plane(slope, plane, lanes, channels * area, 0, products);
  }
  cut_parts(products);
  return products;
}

Gather gather_of(const Products& products, const Layer& layer, const Image& image, int64_t pixel, int64_t row) {
  Gather gather = {};
  gather.layer = layer;
  gather.image = image;
  gather.pixel = pixel;
  gather.row = row;
  gather.runs = products.runs.data();
  gather.dy = products.dy.data();
  gather.ends = products.ends.data();
  gather.n_parts = static_cast<int>(products.ends.size());
  return gather;
}

std::vector<float> pack(const Weights& weights, const Products& products, Layer& layer, const float* bias, int64_t lanes) {
  layer.depth = static_cast<int64_t>(products.from.size()) + weights.context_channels;
  layer.vecs = vecs_of(layer.activation, layer.out_channels, lanes);
  const int64_t columns = layer.vecs * lanes;
  std::vector<float> packed(usize(columns * (1 + layer.depth)));
  for (int64_t vec = 0; vec < layer.vecs; ++vec) {
    const int64_t panel = vec / kPanelVecs * kPanelVecs;
    const int64_t step = std::min<int64_t>(kPanelVecs, layer.vecs - panel) * lanes;
    for (int64_t lane = 0; lane < lanes; ++lane) {
      const int64_t column = column_of(layer.activation, layer.out_channels, vec, lane, lanes);
      if (column < 0) continue;
      if (bias) packed[usize(vec * lanes + lane)] = bias[column];
      float* to = packed.data() + columns + panel * lanes * layer.depth + (vec - panel) * lanes + lane;
      for (const int64_t from : products.from) {
        const int64_t at = products.base[usize(column)] + from;
        if (from >= 0 && (!weights.live || weights.live[at])) *to = weights.data[at];
        to += step;
      }
      for (int64_t d = 0; d < weights.context_channels; ++d, to += step)
        *to = weights.context[column * weights.context_channels + d];
    }
  }
  layer.bias = packed.data();
  layer.weight = packed.data() + columns;
  return packed;
}

Bands cut_bands(int64_t images, const Image& image, int64_t row_floats, int64_t halo, int64_t budget_floats) {
  int64_t rows = std::max(budget_floats / row_floats - halo, halo);
  rows = std::min(rows, std::max((images * image.height + kMinBands - 1) / kMinBands, kMinBandPixels / image.width));
  rows = std::clamp<int64_t>(rows, 1, image.height);
  const int64_t per_image = (image.height + rows - 1) / rows;
  return {per_image, (image.height + per_image - 1) / per_image, images};
}

Band band_at(const Bands& bands, const Image& image, int64_t index) {
  const int64_t band = index % bands.per_image;
  const int64_t first = image.height * band / bands.per_image;
  return {first, image.height * (band + 1) / bands.per_image - first};
}

void pad_band(const float* image, const Image& size, int64_t channels, const Reach& reach, const Band& band, float* out) {
  const int64_t left = reach.left * channels, right = reach.right * channels, inner = size.width * channels;
  const auto zero = [](float* to, int64_t floats) { std::memset(to, 0, usize(floats) * sizeof(float)); };
  for (int64_t i = band.first - reach.above; i < band.first + band.rows + reach.below; ++i, out += left + inner + right) {
    if (i < 0 || i >= size.height) {
      zero(out, left + inner + right);
      continue;
    }
    zero(out, left);
    std::memcpy(out + left, image + i * inner, usize(inner) * sizeof(float));
    zero(out + left + inner, right);
  }
}

}  // namespace vlae::masked_conv
