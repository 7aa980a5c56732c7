#include "contract.h"

#include <vector>

#include "../checks.h"
#include "../narrow.h"

namespace vlae {

MadeScale scale_by_name(const char* op, const std::string& name) {
  if (name == "exp") return MadeScale::exp;
  if (name == "clipped_exp") return MadeScale::clipped_exp;
  if (name == "softplus") return MadeScale::softplus;
  if (name == "exp_slope") return MadeScale::exp_slope;
  if (name == "sigmoid") return MadeScale::sigmoid;
  VLAE_CHECK(name == "bernoulli", op, "scale", "be one of exp, clipped_exp, softplus, sigmoid, exp_slope, bernoulli", name);
  return MadeScale::bernoulli;
}

void check_ends(const char* op, const int64_t* in, int64_t dim, const int64_t* out, int64_t outputs) {
  std::vector<char> seen(usize(dim), 0);
  for (int64_t i = 0; i < dim; ++i) {
    VLAE_CHECK(1 <= in[i] && in[i] <= dim && !seen[usize(in[i] - 1)], op, "degrees[0]", text("be a permutation of 1..", dim),
               text(in[i], " at index ", i));
    seen[usize(in[i] - 1)] = 1;
  }
  VLAE_CHECK(outputs == dim || outputs == 2 * dim, op, "weights[-1]",
             text("have D = ", dim, " (mean-only) or 2 D = ", 2 * dim, " (affine) outputs"), outputs);
  for (int64_t o = 0; o < outputs; ++o)
    VLAE_CHECK(out[o] == in[o % dim] - 1, op, "degrees[-1]", "be degrees[0] - 1, once per parameter",
               text(out[o], " at index ", o));
}

void check_variables(const char* op, const int64_t* in, const int64_t* out, const std::vector<int64_t>& inputs,
                     const std::vector<int64_t>& levels) {
  const int64_t variables = static_cast<int64_t>(inputs.size());
  std::vector<char> seen(usize(variables), 0);
  for (size_t v = 0; v < usize(variables); in += inputs[v], out += levels[v], ++v) {
    const int64_t degree = in[0];
    VLAE_CHECK(1 <= degree && degree <= variables && !seen[usize(degree - 1)], op, "degrees[0]",
               text("be a permutation of 1..", variables, " of the variables"), text(degree, " of variable ", v));
    seen[usize(degree - 1)] = 1;
    for (int64_t i = 0; i < inputs[v]; ++i)
      VLAE_CHECK(in[i] == degree, op, "degrees[0]", text("be ", degree, " for all inputs of variable ", v), in[i]);
    for (int64_t k = 0; k < levels[v]; ++k)
      VLAE_CHECK(out[k] == degree - 1, op, "degrees[-1]", text("be ", degree - 1, " for all levels of variable ", v), out[k]);
  }
}

void check_scale(const char* op, MadeScale scale, int64_t dim, int64_t outputs) {
  const bool draws = scale == MadeScale::bernoulli, plain = draws || scale == MadeScale::exp;
  VLAE_CHECK(outputs > dim || plain, op, "scale", "be exp or bernoulli where there is one output a dimension", "another");
  VLAE_CHECK(outputs == dim || !draws, op, "scale", "not be bernoulli where there are two outputs a dimension", "bernoulli");
}

}  // namespace vlae
