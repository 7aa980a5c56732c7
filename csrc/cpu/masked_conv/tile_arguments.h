// The arguments that forward and backward by matrix tiles share, checked, and tasks of pixels.
#pragma once

#include <algorithm>
#include <optional>

#include "../workers.h"
#include "tile_layer.h"

namespace vlae::masked_conv {

// Throws where the processor has no matrix tiles.
TileKernels tile_kernels_for(const char* op);

inline std::vector<int64_t> sizes_of(const ConvArguments& a, int64_t channels) {
  return {a.batch, a.image.height, a.image.width, channels};
}

inline int64_t area_of(const ConvArguments& a) { return a.image.height * a.image.width; }

// The data of a bfloat16 map; nullptr where there is none.
const Half* check_map(const char* op, const std::string& name, const std::optional<Tensor>& map,
                      const std::vector<int64_t>& sizes);

// Tasks of pixels in order: body(first, last, scratch).
template <typename Body>
void run_pixels(const char* op, int64_t pixels, int64_t step, int64_t halves, const Body& body) {
  const int64_t count = (pixels + step - 1) / step;
  run_tasks(op, {count, count, halves / 2}, [&](int64_t task, const Worker& worker) {
    body(task * step, std::min(pixels, (task + 1) * step), reinterpret_cast<Half*>(worker.scratch));
  });
}

// Of all pixels.
void run_gather(const char* op, const ConvArguments& a, const TileKernels& kernels, const TileGather& gather,
                const TileGatherData& data);

}  // namespace vlae::masked_conv
