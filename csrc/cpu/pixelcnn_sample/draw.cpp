// Parameters to pixels. Compiled once for all instruction sets: given the parameters, the image is the same everywhere.
#include "../../pixelcnn_sample/draw.h"

#include "../halves.h"
#include "program.h"

namespace vlae::pixelcnn_sample {

namespace {

// A pixel of a buffer.
struct Cached {
  Storage storage;
  float* at;

  float get(int64_t channel) const { return get_value(storage, at, channel); }
  void set(int64_t channel, float value) const { set_value(storage, at, channel, value); }
};

// A pixel in its sample's caches and in the tensors, whose channels are a plane apart.
struct Pixel {
  const Draw& draw_;
  int64_t plane;  // floats from a channel to the next, in all four tensors
  int64_t at_noise, at_image;
  int64_t first;  // of the channels that are drawn: params are theirs
  Cached params, image;

  double param(int64_t i) const { return params.get(i); }
  double noise(int64_t i) const { return draw_.noise[at_noise + (first + i) * plane]; }
  double drawn(int64_t c) const { return draw_.images[at_image + (first + c) * plane]; }
  void draw(int64_t channel, double value) const {
    const int64_t c = first + channel, at = at_image + c * plane;
    draw_.images[at] = draw_.known_mask && draw_.known_mask[at] ? draw_.known[at] : static_cast<float>(value);
    image.set(c, draw_.images[at]);
  }
};

// Calls body(sample, at, params, image) for each pixel of a wave: its place in a plane, and in the caches.
template <typename Body>
void for_pixels(const Program& p, const DrawAt& which, const Wave& wave, const Tile& tile, const Body& body) {
  const Buffer &image = p.buffers[0], &params = p.buffers[which.buffer];
  for (int64_t sample = 0; sample < tile.count; ++sample)
    for (int64_t i = wave.top; i < wave.top + wave.pixels; ++i) {
      const int64_t j = wave.index - p.slope * i;
      float* cache = tile.cache + sample * p.sample_floats;
      body(sample, i * p.width + j, Cached{params.storage, cache + params.origin + (i * params.row + j) * params.pixel},
           Cached{image.storage, cache + image.origin + (i * image.row + j) * image.pixel});
    }
}

// Calls body(k, of_pixel) for the parameters of a draw: their number in it, and among all of the pixel.
template <typename Body>
void for_params(const Program& p, const DrawAt& which, const Body& body) {
  const int64_t count = p.buffers[which.buffer].channels, all = p.buffers[0].channels;
  for (int64_t k = 0; k < count; ++k) body(k, param_of_draw(p.draw.emit, all, which.first, which.count, k));
}

// The first of several draws clears the channels after its own, which stages read before they are drawn.
void clear_later(const Program& p, const DrawAt& which, const Cached& image) {
  if (which.first == 0)
    for (int64_t c = which.count; c < p.buffers[0].channels; ++c) image.set(c, 0);
}

}  // namespace

void draw_wave(const Program& p, const DrawAt& which, const Wave& wave, const Tile& tile) noexcept {
  const Draw& draw = p.draw;
  const int64_t plane = p.height * p.width, channels = p.buffers[0].channels;
  for_pixels(p, which, wave, tile, [&](int64_t sample, int64_t at, const Cached& from, const Cached& own) {
    const int64_t index = tile.first + sample;
    float* to = draw.params + index * draw.n_params * plane + at;
    for_params(p, which, [&](int64_t k, int64_t of_pixel) { to[of_pixel * plane] = from.get(k); });
    clear_later(p, which, own);
    draw_pixel(draw.emit, which.count, draw.temperature,
               Pixel{draw, plane, index * draw.noises * plane + at, index * channels * plane + at, which.first, from, own});
  });
}

void show_wave(const Program& p, const DrawAt& which, const Wave& wave, const Tile& tile, float* params) noexcept {
  const int64_t plane = p.height * p.width, count = p.buffers[which.buffer].channels;
  for_pixels(p, which, wave, tile, [&](int64_t sample, int64_t at, const Cached& from, const Cached&) {
    const int64_t index = tile.first + sample, pixel = at / p.width - wave.top;
    float* to = p.draw.params + index * p.draw.n_params * plane + at;
    for_params(p, which, [&](int64_t k, int64_t of_pixel) {
      to[of_pixel * plane] = params[(index * count + k) * wave.pixels + pixel] = from.get(k);
    });
  });
}

void put_wave(const Program& p, const DrawAt& which, const Wave& wave, const Tile& tile, const float* values) noexcept {
  const int64_t plane = p.height * p.width, channels = p.buffers[0].channels;
  for_pixels(p, which, wave, tile, [&](int64_t sample, int64_t at, const Cached&, const Cached& own) {
    const int64_t index = tile.first + sample, pixel = at / p.width - wave.top;
    clear_later(p, which, own);
    for (int64_t c = 0; c < which.count; ++c) {
      const float value = values[(index * which.count + c) * wave.pixels + pixel];
      own.set(which.first + c, value);
      p.draw.images[(index * channels + which.first + c) * plane + at] = value;
    }
  });
}

}  // namespace vlae::pixelcnn_sample
