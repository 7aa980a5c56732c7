// Live taps as runs over padded memory, weights in the order of those runs, and the cut of the work into bands.
//
// The cut depends on shapes alone, never on the number of threads: so do the order of every sum and its bits.
#pragma once

#include <string>
#include <vector>

#include "../../tap.h"
#include "conv.h"

namespace vlae::masked_conv {

struct Taps {
  std::vector<Tap> list;        // in raster order
  std::vector<int64_t> places;  // of each tap: row * k + column of its weight in the kernel
  int64_t kernel;               // k of a k x k weight
  Reach reach;
};

// words: place, dy, dx of each live tap. A tap that lies outside the image from each of its pixels is refused.
Taps parse_taps(const char* op, const std::vector<int64_t>& words, int64_t kernel, const Image& image);
Reach mirrored(const Reach& reach);
// The one tap of a 1x1 convolution.
inline Taps own_pixel() { return {{{0, 0}}, {0}, 1, {0, 0, 0, 0}}; }

struct Products {
  std::vector<Run> runs;
  std::vector<int64_t> dy;    // of each run
  std::vector<int> ends;      // of the parts, once they are cut
  std::vector<int64_t> base;  // of each column, and
  std::vector<int64_t> from;  // of each product: the weight is at base + from; from is -1 where there is none
};

// Over padded channels_last memory with rows of `row` floats. Not cut: the weight gradient needs whole runs.
Products forward_products(const Taps& taps, int64_t channels, int64_t columns, int64_t row);
// Cuts long runs, and the list of runs into parts that are summed by themselves.
void cut_parts(Products& products);
// The products with a context of so many channels, behind `first` others, cut in the same way.
std::vector<Run> context_parts(int64_t first, int64_t channels);
// The mirrored taps over the planes of a slope.
Products grad_products(const Taps& taps, int64_t channels, const Slope& slope, int64_t lanes);
// The pixel itself over the planes of a slope, for columns [tap][channel].
Products spread_products(const Taps& taps, int64_t channels, const Slope& slope, int64_t lanes);

// Reads from a source with `pixel` floats to the right neighbour and `row` to the one below. The products must outlive it.
Gather gather_of(const Products& products, const Layer& layer, const Image& image, int64_t pixel, int64_t row);

// live: of every weight, or nullptr; dead weights are not read. context: [P, D], of the products behind the others.
struct Weights {
  const float* data;
  const bool* live;
  const float* context = nullptr;
  int64_t context_channels = 0;
};
// The panels of a layer, whose depth, vecs and pointers are set.
std::vector<float> pack(const Weights& weights, const Products& products, Layer& layer, const float* bias, int64_t lanes);

struct Bands {
  int64_t per_image, rows;  // rows: at most
  int64_t images;
  int64_t count() const { return images * per_image; }
};

// row_floats: memory of a padded row; halo: rows that a band needs beyond its own.
Bands cut_bands(int64_t images, const Image& image, int64_t row_floats, int64_t halo, int64_t budget_floats);
Band band_at(const Bands& bands, const Image& image, int64_t index);

// The band's rows of one channels_last image with its border of zeros, row_floats floats a row.
void pad_band(const float* image, const Image& size, int64_t channels, const Reach& reach, const Band& band, float* out);

}  // namespace vlae::masked_conv
