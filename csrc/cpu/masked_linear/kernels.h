// Functions that the files of one instruction set share.
#pragma once

#include "layer.h"

namespace vlae::masked_linear::VLAE_ISA {

using namespace vlae::VLAE_ISA;

void slopes(const Slopes& s, const Columns& columns) noexcept;

}  // namespace vlae::masked_linear::VLAE_ISA
