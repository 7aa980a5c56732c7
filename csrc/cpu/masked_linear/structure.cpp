#include "structure.h"

#include <array>
#include <cstring>
#include <limits>

#include "../../checks.h"
#include "../../narrow.h"

namespace vlae::masked_linear {

namespace {

constexpr size_t kEntries = 32;
constexpr size_t kMostBytes = 1 << 19;  // of a mask that is kept

struct Bytes {
  const void* data;
  size_t count;
};

struct Parts {
  Bytes first, second;
};

Parts parts_of(const MaskData& mask) {
  if (mask.adjacency != nullptr) return {{mask.adjacency, usize(mask.inputs) * usize(mask.outputs)}, {nullptr, 0}};
  return {{mask.in_degrees, usize(mask.inputs) * sizeof(int64_t)}, {mask.out_degrees, usize(mask.outputs) * sizeof(int64_t)}};
}

struct Entry {
  Side side = Side::outputs;
  bool by_degrees = false;
  int64_t lanes = 0, inputs = 0, outputs = 0;
  std::vector<uint8_t> mask;
  std::shared_ptr<const Structure> structure;

  bool holds(const MaskData& of, Side of_side, int64_t of_lanes) const {
    if (!structure || side != of_side || lanes != of_lanes || inputs != of.inputs || outputs != of.outputs) return false;
    if (by_degrees != (of.adjacency == nullptr)) return false;
    const auto [first, second] = parts_of(of);
    return mask.size() == first.count + second.count &&
           (first.count == 0 || !std::memcmp(mask.data(), first.data, first.count)) &&
           (second.count == 0 || !std::memcmp(mask.data() + first.count, second.data, second.count));
  }
};

std::vector<int32_t> narrowed(const char* op, const char* name, const int64_t* degrees, int64_t size) {
  std::vector<int32_t> to(usize(size));
  for (int64_t i = 0; i < size; ++i) {
    VLAE_CHECK(degrees[i] > std::numeric_limits<int32_t>::min() && degrees[i] < std::numeric_limits<int32_t>::max(), op, name,
               "fit in 32 bits", degrees[i]);
    to[usize(i)] = static_cast<int32_t>(degrees[i]);
  }
  return to;
}

// By places where there are some: places is filled.
std::vector<int32_t> sorted(std::vector<int32_t> degrees, std::vector<int32_t>& places) {
  places = order_of(degrees);
  return places.empty() ? degrees : in_order(degrees, places);
}

std::shared_ptr<const Structure> make(const char* op, const MaskData& mask, Side side, int64_t lanes) {
  auto made = std::make_shared<Structure>();
  LinearLayer layer = {};
  layer.inputs = mask.inputs;
  layer.outputs = mask.outputs;
  layer.adjacency = mask.adjacency;
  if (!mask.adjacency) {
    made->in_degrees = sorted(narrowed(op, "in_degrees", mask.in_degrees, mask.inputs), made->in_places);
    made->in_degrees.resize(usize(mask.inputs + kDegreePadding), std::numeric_limits<int32_t>::max());
    made->out_degrees = sorted(narrowed(op, "out_degrees", mask.out_degrees, mask.outputs), made->out_places);
    layer.in_degrees = made->in_degrees.data();
    layer.out_degrees = made->out_degrees.data();
  }
  made->panels = side == Side::outputs ? panels_of_outputs(layer, lanes) : panels_of_inputs(layer, lanes);
  if (side == Side::inputs) made->dead = dead_runs(made->panels, layer, lanes);
  return made;
}

}  // namespace

std::shared_ptr<const Structure> structure_of(const char* op, const MaskData& mask, Side side, int64_t lanes) {
  static thread_local std::array<Entry, kEntries> kept;
  static thread_local size_t next = 0;
  for (const Entry& entry : kept)
    if (entry.holds(mask, side, lanes)) return entry.structure;
  std::shared_ptr<const Structure> made = make(op, mask, side, lanes);
  const auto [first, second] = parts_of(mask);
  if (first.count + second.count > kMostBytes) return made;
  Entry& entry = kept[next++ % kEntries];
  entry = {side, mask.adjacency == nullptr, lanes, mask.inputs, mask.outputs, {}, made};
  for (const Bytes& bytes : {first, second}) {
    const auto* data = static_cast<const uint8_t*>(bytes.data);
    entry.mask.insert(entry.mask.end(), data, data + bytes.count);
  }
  return made;
}

}  // namespace vlae::masked_linear
