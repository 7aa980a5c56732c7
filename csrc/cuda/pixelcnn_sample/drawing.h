// A draw of the pixels of a wave.
#pragma once

#include "../../pixelcnn_sample/draw.h"
#include "rows.h"

namespace vlae::cuda::pixelcnn_sample {

// Where a pixel is: in the rings of its sample; and in the tensors, where its channels are a plane apart. The op has seen to it
// that 32 bits count their values.
template <typename T>
struct PixelAt {
  int params, image;
  int known, noise;
  T first_noise;  // loaded before the parameters are written
};

// A pixel for draw_pixel. first: of the channels that are drawn; the parameters are theirs.
template <typename T>
struct Pixel {
  const Tensors& t;
  const PixelAt<T>& at;
  T* cache;
  int plane, first;

  __device__ double param(int64_t i) const { return to_float(cache[at.params + static_cast<int>(i)]); }
  __device__ double noise(int64_t i) const {
    return to_float(i == 0 ? at.first_noise : static_cast<const T*>(t.noise)[at.noise + (first + static_cast<int>(i)) * plane]);
  }
  __device__ double drawn(int64_t c) const { return to_float(cache[at.image + first + static_cast<int>(c)]); }
  __device__ void draw(int64_t channel, double value) const {
    const int c = first + static_cast<int>(channel), to = at.known + c * plane;
    const bool known = t.known_mask && t.known_mask[to];
    const T pixel = known ? static_cast<const T*>(t.known)[to] : from_float<T>(static_cast<float>(value));
    cache[at.image + c] = pixel;
    static_cast<T*>(t.images)[to] = pixel;
  }
};

// Each pixel is one thread's, since the channels of a mixture follow from each other. The last warp has the first pixels: it
// has least to do in a section of few columns, and so what can be known before the parameters costs no time.
template <typename T>
class Drawing {
 public:
  // Finds this thread's first pixel, if it has one.
  __device__ Drawing(const Program& p, const DrawAt& which, const Tensors& t, const ThreadBlock<T>& block)
      : p_(p), which_(which), t_(t), block_(block), wave_(block.reached[-1]) {
    item_ = static_cast<int>(threadIdx.x) ^ (kThreads - 32);
    if (item_ < wave_.rows) at_ = pixel_of(item_);
  }

  // Draws when the parameters are written. The first of several draws clears the channels after its own, which stages read
  // before they are drawn.
  __device__ void run() {
    for (int item = threadIdx.x; item < wave_.rows * which_.params; item += kThreads) keep_param(item);
    while (item_ < wave_.rows) {
      for (int c = which_.count; which_.first == 0 && c < p_.image_channels; ++c)
        block_.cache[at_.image + c] = from_float<T>(0);
      draw_pixel(p_.emit, which_.count, t_.temperature, Pixel<T>{t_, at_, block_.cache, plane(), which_.first});
      item_ += kThreads;
      if (item_ < wave_.rows) at_ = pixel_of(item_);
    }
  }

 private:
  __device__ int plane() const { return p_.height * p_.width; }

  struct Site {
    int sample, at;  // of the batch; of a plane
    int in_tile, row;
  };

  __device__ Site site_of(int item) const {
    const int number = item / block_.samples, row = wave_.top + number, sample = item - number * block_.samples;
    return {block_.first_sample + sample, row * p_.width + wave_.wave - p_.slope * row, sample, row};
  }

  __device__ int place_of(int buffer, const Site& site) const {
    return p_.zero_size + site.in_tile * p_.sample_size + slot_of(p_, buffer, wave_.wave, site.row);
  }

  __device__ PixelAt<T> pixel_of(int item) const {
    const Site site = site_of(item);
    const int noise = site.sample * p_.noises * plane() + site.at;
    return {place_of(which_.buffer, site), place_of(0, site), site.sample * p_.image_channels * plane() + site.at, noise,
            static_cast<const T*>(t_.noise)[noise + which_.first * plane()]};
  }

  // Writes one of the parameters of a pixel.
  __device__ void keep_param(int item) const {
    const int number = item / which_.params, k = item - number * which_.params;
    const Site site = site_of(number);
    const int to = static_cast<int>(param_of_draw(p_.emit, p_.image_channels, which_.first, which_.count, k));
    static_cast<T*>(t_.params)[(site.sample * p_.params + to) * plane() + site.at] =
        block_.cache[place_of(which_.buffer, site) + k];
  }

  const Program& p_;
  const DrawAt& which_;
  const Tensors& t_;
  const ThreadBlock<T>& block_;
  const Reached wave_;
  int item_;
  PixelAt<T> at_;
};

}  // namespace vlae::cuda::pixelcnn_sample
