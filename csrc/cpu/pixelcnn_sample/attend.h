// Attention of one head of one pixel: keys and values lie in their caches, pixel after pixel, and are read once.
//
// Keys are taken in blocks: their scores, the largest so far, and the sums of weights and of weighted values, which shrink
// where a larger score comes. The blocks follow from the pixel's place alone, so that the sums have the same bits in any batch.
// A pixel reads (channels of k + channels of v) floats for every pixel before it: that is what it costs.
#pragma once

#include "../transpose.h"
#include "../values.h"

namespace vlae::pixelcnn_sample::VLAE_ISA {

using namespace vlae::VLAE_ISA;

constexpr int64_t kKeys = 128;  // of a block
constexpr int kValueVecs = 4;   // vectors of values that are summed at once

// Pixels side by side, `stride` floats apart.
struct Stretch {
  const float *k, *v;
  int64_t k_stride, v_stride, count;
};

struct Head {
  const float* q;                        // the pixel
  int64_t depth, first, width, v_first;  // channels of q and k from `first` on, of v from `v_first` on
  float scale;
};

inline float largest_lane(Vec v) {
  float most = v[0];
  for (int lane = 1; lane < kLanes; ++lane) most = v[lane] > most ? v[lane] : most;
  return most;
}

inline float sum_lanes(Vec v) {
  float sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += v[lane];
  return sum;
}

// The scores of kLanes keys, of which `count` are there: a product and a sum over the lanes for each.
template <typename Values>
Vec score(const Head& head, const float* k, int64_t stride, int64_t count) {
  Vec sums[kLanes] = {};
  for (int64_t c = 0; c < head.depth; c += kLanes) {
    const int64_t some = least(kLanes, head.depth - c);
    const Vec q = Values::load(head.q, head.first + c, some);
    for (int64_t key = 0; key < kLanes; ++key)
      sums[key] += q * Values::load(k + least(key, count - 1) * stride, head.first + c, some);
  }
  transpose(sums);
  for (int step = kLanes / 2; step > 0; step /= 2)
    for (int lane = 0; lane < step; ++lane) sums[lane] += sums[lane + step];
  return sums[0] * splat(head.scale);
}

// sums = factor * sums + sum of weights * values, of `Vecs` vectors of values. Where these are few, neighbouring keys have sums
// of their own, so that one need not wait for the other.
template <typename Values, int Vecs>
void add_values(const float* weights, const Stretch& keys, int64_t first, int64_t last, float factor, float* sums) {
  constexpr int kApart = kValueVecs / Vecs;
  Vec parts[kApart][Vecs] = {};
  const auto add = [&](int64_t key, int apart) {
    const Vec weight = splat(weights[key]);
    const float* v = keys.v + key * keys.v_stride;
    for (int i = 0; i < Vecs; ++i)
      parts[apart][i] += weight * Values::load(v, first + i * kLanes, i < Vecs - 1 ? kLanes : last);
  };
  int64_t key = 0;
  for (; key + kApart <= keys.count; key += kApart)
    for (int apart = 0; apart < kApart; ++apart) add(key + apart, apart);
  for (; key < keys.count; ++key) add(key, 0);
  for (int i = 0; i < Vecs; ++i) {
    const int64_t some = i < Vecs - 1 ? kLanes : last;
    Vec sum = parts[0][i];
    for (int apart = 1; apart < kApart; ++apart) sum += parts[apart][i];
    float* at = sums + i * kLanes;
    store_some(at, load_some(at, some) * splat(factor) + sum, some);
  }
}

template <typename Values>
void add_all_values(const float* weights, const Stretch& keys, const Head& head, float factor, float* sums) {
  for (int64_t c = 0; c < head.width; c += kValueVecs * kLanes) {
    const int64_t left = head.width - c, vecs = least(kValueVecs, (left + kLanes - 1) / kLanes);
    const auto add = vecs == 1   ? add_values<Values, 1>
                     : vecs == 2 ? add_values<Values, 2>
                     : vecs == 3 ? add_values<Values, 3>
                                 : add_values<Values, 4>;
    add(weights, keys, head.v_first + c, least(kLanes, left - (vecs - 1) * kLanes), factor, sums + c);
  }
}

// A softmax after some of its keys. The sums of values stand elsewhere.
struct Softmax {
  float most, sum;
};

// A block of up to kKeys keys.
template <typename Values>
void add_block(const Head& head, const Stretch& keys, Softmax& softmax, float* sums) {
  alignas(64) float weights[kKeys];
  float most = softmax.most;
  for (int64_t key = 0; key < keys.count; key += kLanes) {
    const int64_t count = least(kLanes, keys.count - key);
    const Vec scores = score<Values>(head, keys.k + key * keys.k_stride, keys.k_stride, count);
    store(weights + key, scores);
    const float here = largest_lane(scores);  // what stands in for keys that are not there is one that is
    most = here > most ? here : most;
  }
  Vec sum = {};
  for (int64_t key = 0; key < keys.count; key += kLanes) {
    const int64_t count = least(kLanes, keys.count - key);
    store(weights + key, exp(load(weights + key) - splat(most)));
    sum += load_some(weights + key, count);
  }
  const float factor = softmax.sum > 0 ? exp(splat(softmax.most - most))[0] : 0.0f;
  softmax = {most, softmax.sum * factor + sum_lanes(sum)};
  add_all_values<Values>(weights, keys, head, factor, sums);
}

template <typename Values>
void add_stretch(const Head& head, const Stretch& all, Softmax& softmax, float* sums) {
  for (int64_t first = 0; first < all.count; first += kKeys)
    add_block<Values>(head,
                      {all.k + first * all.k_stride, all.v + first * all.v_stride, all.k_stride, all.v_stride,
                       least(kKeys, all.count - first)},
                      softmax, sums);
}

}  // namespace vlae::pixelcnn_sample::VLAE_ISA
