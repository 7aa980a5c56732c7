// Requirements that a MADE must meet to be inverted, the same on every device.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "scale.h"

namespace vlae {

MadeScale scale_by_name(const char* op, const std::string& name);

// Throws unless inputs and outputs are numbered by their degrees, as a plan takes them to be.
void check_ends(const char* op, const int64_t* in, int64_t dim, const int64_t* out, int64_t outputs);

// Throws unless inputs and outputs are numbered by the degrees of their variables, which have so many inputs and levels each,
// one variable behind the other.
void check_variables(const char* op, const int64_t* in, const int64_t* out, const std::vector<int64_t>& inputs,
                     const std::vector<int64_t>& levels);

// A transform without scales has no other slope, and a draw has no scale.
void check_scale(const char* op, MadeScale scale, int64_t dim, int64_t outputs);

}  // namespace vlae
