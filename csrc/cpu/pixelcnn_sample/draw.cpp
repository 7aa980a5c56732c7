// Parameters to pixels. Compiled once for all instruction sets: given the parameters, the image is the same everywhere.
#include "../../pixelcnn_sample/draw.h"

#include "program.h"

namespace vlae::pixelcnn_sample {

namespace {

// A pixel in its sample's caches and in the tensors, whose channels are a plane apart.
struct Pixel {
  const Draw& draw_;
  int64_t plane;  // floats from a channel to the next, in all four tensors
  int64_t at_noise, at_image;
  int64_t first;  // of the channels that are drawn: params are theirs
  const float* params;
  float* image;

  double param(int64_t i) const { return params[i]; }
  double noise(int64_t i) const { return draw_.noise[at_noise + (first + i) * plane]; }
  double drawn(int64_t c) const { return image[first + c]; }
  void draw(int64_t channel, double value) const {
    const int64_t c = first + channel, at = at_image + c * plane;
    image[c] = draw_.known_mask && draw_.known_mask[at] ? draw_.known[at] : static_cast<float>(value);
    draw_.images[at] = image[c];
  }
};

}  // namespace

// The first of several draws clears the channels after its own, which stages read before they are drawn.
void draw_wave(const Program& p, const DrawAt& which, const Wave& wave, const Tile& tile) noexcept {
  const Draw& draw = p.draw;
  const Buffer &image = p.buffers[0], &params = p.buffers[which.buffer];
  const int64_t plane = p.height * p.width, all_params = draw.n_params;
  for (int64_t sample = 0; sample < tile.count; ++sample)
    for (int64_t i = wave.top; i < wave.top + wave.pixels; ++i) {
      const int64_t j = wave.index - p.slope * i, at = i * p.width + j, index = tile.first + sample;
      float* cache = tile.cache + sample * p.sample_floats;
      const float* from = cache + params.origin + (i * params.row + j) * params.channels;
      float* to = draw.params + index * all_params * plane + at;
      for (int64_t k = 0; k < params.channels; ++k)
        to[param_of_draw(draw.emit, image.channels, which.first, which.count, k) * plane] = from[k];
      float* own = cache + image.origin + (i * image.row + j) * image.channels;
      if (which.first == 0)
        for (int64_t c = which.count; c < image.channels; ++c) own[c] = 0;
      draw_pixel(
          draw.emit, which.count, draw.temperature,
          Pixel{draw, plane, index * draw.noises * plane + at, index * image.channels * plane + at, which.first, from, own});
    }
}

}  // namespace vlae::pixelcnn_sample
