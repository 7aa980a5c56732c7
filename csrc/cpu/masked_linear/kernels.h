// What the files of one instruction set know of each other.
#pragma once

#include "layer.h"

namespace vlae::masked_linear::VLAE_ISA {

using namespace vlae::VLAE_ISA;

void slopes(const Slopes& s, const Columns& columns) noexcept;

}  // namespace vlae::masked_linear::VLAE_ISA
