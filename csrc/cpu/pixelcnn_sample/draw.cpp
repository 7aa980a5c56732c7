// Logits to pixels. Compiled once for all instruction sets: given the logits, the image is the same everywhere.
#include "../../pixelcnn_sample/draw.h"

#include "program.h"

namespace vlae {

void draw_wave(const Program& p, const Wave& wave, const Tile& tile) noexcept {
  const Draw& draw = p.draw;
  const Buffer& image = p.buffers[0];
  const Buffer& logits = p.buffers[p.n_stages];
  for (int64_t sample = 0; sample < tile.count; ++sample)
    for (int64_t i = wave.top; i < wave.top + wave.pixels; ++i) {
      const int64_t j = wave.index - p.slope * i;
      float* cache = tile.cache + sample * p.sample_floats;
      float* pixel = cache + image.origin + (i * image.row + j) * image.channels;
      const float* logit = cache + logits.origin + (i * logits.row + j) * logits.channels;
      for (int64_t c = 0; c < image.channels; ++c) {
        const int64_t at = (((tile.first + sample) * image.channels + c) * p.height + i) * p.width + j;
        const bool known = draw.known_mask && draw.known_mask[at];
        pixel[c] = known ? draw.known[at] : static_cast<float>(draw_bernoulli(draw.noise[at], logit[c], draw.temperature));
        draw.images[at] = pixel[c];
        draw.logits[at] = logit[c];
      }
    }
}

}  // namespace vlae
