// Draws of a dimension of x for a vector of samples, and their log-probabilities. Exact: what single precision cannot tell is
// decided in double precision, as the specification has it, so that a draw is a function of logits and noise alone.
#pragma once

#include "../activate.h"
#include "../long_sum.h"

namespace vlae::made_inverse::VLAE_ISA {

using namespace vlae::VLAE_ISA;

// 1 where u < sigmoid(logit), else 0.
inline Vec draw_bernoulli(Vec u, Vec logit) {
  const Vec share = u * one_and_exp(logit), one = splat(1.0f), near = splat(1e-5f);  // 20 times the error of share at 1
  Vec out = share < one ? one : Vec{};
  const IntVec unsure = ((share > one - near) & (share < one + near)) | (logit < splat(-80.0f));
  for (int lane = 0; lane < kLanes; ++lane)
    if (unsure[lane]) out[lane] = u[lane] * (1.0 + __builtin_exp(-static_cast<double>(logit[lane]))) < 1.0 ? 1.0f : 0.0f;
  return out;
}

// Lane by lane, as the slopes.
inline Vec log_sigmoid(Vec x) {
  const Vec size = with_sign(x, splat(1.0f)), tail = exp(-size);
  Vec out = x < Vec{} ? x : Vec{};
  for (int lane = 0; lane < kLanes; ++lane) out[lane] -= __builtin_log1pf(tail[lane]);
  return x == x ? out : x;
}

// The first k at which the sum of exp(logits 0..k) exceeds its share u of the whole, for one lane, in double precision.
[[gnu::noinline]] inline int64_t draw_index(const float* logits, int64_t apart, int64_t levels, double u) {
  double most = static_cast<double>(logits[0]), total = 0, sum = 0;
  for (int64_t k = 1; k < levels; ++k) most = __builtin_fmax(most, static_cast<double>(logits[k * apart]));
  for (int64_t k = 0; k < levels; ++k) total += __builtin_exp(static_cast<double>(logits[k * apart]) - most);
  for (int64_t k = 0; k < levels - 1; ++k) {
    sum += __builtin_exp(static_cast<double>(logits[k * apart]) - most);
    if (sum > u * total) return k;
  }
  return levels - 1;
}

struct Draw {
  Vec level, log_prob;
};

// The same for a vector of lanes. logits: [levels], `apart` floats from one to the next.
inline Draw draw_categorical(Vec u, const float* logits, int64_t apart, int64_t levels) {
  Vec most = load(logits);
  for (int64_t k = 1; k < levels; ++k) {
    const Vec logit = load(logits + k * apart);
    most = logit > most ? logit : most;
  }
  LongSum total, sum;
  for (int64_t k = 0; k < levels; ++k) total.add(exp(load(logits + k * apart) - most));
  const Vec share = u * total.total, near = splat(4e-6f) * total.total;  // 20 times the error of the sums
  Vec level = {};
  IntVec unsure = {};
  for (int64_t k = 0; k + 1 < levels; ++k) {
    sum.add(exp(load(logits + k * apart) - most));
    const Vec over = sum.total - share;
    level = over > Vec{} ? level : level + splat(1.0f);
    unsure |= (over > -near) & (over < near);
  }
  level = total.total == total.total ? level : Vec{};  // of NaN
  Vec log_prob = {};
  for (int lane = 0; lane < kLanes; ++lane) {
    if (unsure[lane]) level[lane] = static_cast<float>(draw_index(logits + lane, apart, levels, static_cast<double>(u[lane])));
    const float own = logits[static_cast<int64_t>(level[lane]) * apart + lane] - most[lane];
    log_prob[lane] = own - __builtin_logf(total.total[lane]);
  }
  return {level, log_prob};
}

}  // namespace vlae::made_inverse::VLAE_ISA
