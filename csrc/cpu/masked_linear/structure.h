// What of a layer follows from its mask alone: the order of its units and its panels.
#pragma once

#include <memory>

#include "live.h"
#include "order.h"

namespace vlae::masked_linear {

// The units of a product that columns of its panels are: outputs in the forward, inputs in the backward.
enum class Side : int64_t { outputs, inputs };

struct Structure {
  std::vector<int32_t> in_degrees, out_degrees;  // ascending where there are places; in_degrees padded, see kDegreePadding
  std::vector<int32_t> in_places, out_places;    // cf. order_of; empty: the units are numbered as they lie
  std::vector<LivePanel> panels;
  std::vector<DeadRun> dead;  // of W, Side::inputs only
};

// The mask as the caller has it: the degrees of both, or an adjacency [outputs, inputs].
struct MaskData {
  const int64_t *in_degrees, *out_degrees;
  const bool* adjacency;
  int64_t inputs, outputs;
};

// Kept from call to call under a copy of the whole mask, which a later call's is compared with: a mask that was changed in
// place is another mask. Throws where a degree does not fit in 32 bits.
std::shared_ptr<const Structure> structure_of(const char* op, const MaskData& mask, Side side, int64_t lanes);

}  // namespace vlae::masked_linear
