#include "tile_arguments.h"

#include <torch/csrc/stable/ops.h>

namespace vlae::masked_conv {

#define VLAE_DECLARE_TILES(isa) \
  namespace isa {               \
  TileKernels tile_kernels();   \
  }
#define VLAE_RETURN_TILES(isa) \
  if (has_matrix_tiles()) return isa::tile_kernels();
VLAE_FOR_EACH_TILE_ISA(VLAE_DECLARE_TILES)

namespace {

constexpr int64_t kTaskPixels = 8 * kTileBlock;
constexpr int64_t kBandFloats = 16 << 10;  // of a padded band that tiles read in place

}  // namespace

TileKernels tile_kernels_for(const char* op) {
  VLAE_FOR_EACH_TILE_ISA(VLAE_RETURN_TILES)
  VLAE_CHECK(false, op, "isa", "be one that this machine has", "amx");
  __builtin_unreachable();
}

const Half* check_map(const char* op, const std::string& name, const std::optional<Tensor>& map,
                      const std::vector<int64_t>& sizes) {
  if (!map) return nullptr;
  check_data(op, name, *map, ScalarType::BFloat16, "bfloat16");
  check_shape(op, name, *map, sizes);
  return halves(*map);
}

void run_gather(const char* op, const ConvArguments& a, const TileKernels& kernels, const TileGather& gather,
                const TileGatherData& data) {
  const Window& window = gather.window;
  if (!window.in_place())
    return run_pixels(op, a.batch * area_of(a), kTaskPixels, kTileBlock * std::max<int64_t>(window.depth, 1),
                      [&](int64_t first, int64_t last, Half* scratch) { kernels.gather(gather, data, first, last, scratch); });
  const int64_t halo = window.reach.above + window.reach.below;
  const Bands bands = cut_bands(a.batch, a.image, padded_row(window) / 2, halo, kBandFloats);
  run_tasks(op, {bands.count(), bands.count(), in_place_halves(window, bands.rows) / 2},
            [&](int64_t task, const Worker& worker) {
              const int64_t n = task / bands.per_image;
              const Band band = band_at(bands, a.image, task);
              const Half* image = data.from.map + n * area_of(a) * window.channels;
              // two numbers are as wide as a float
              pad_band(reinterpret_cast<const float*>(image), a.image, window.channels / 2, window.reach, band, worker.scratch);
              kernels.gather_in_place(gather, data, n, band, reinterpret_cast<Half*>(worker.scratch));
            });
}

}  // namespace vlae::masked_conv
