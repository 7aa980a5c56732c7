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

int64_t check_context_map(const char* op, const std::optional<Tensor>& context, const std::optional<Tensor>& weight,
                          const ConvArguments& a) {
  VLAE_CHECK(context.has_value() == weight.has_value(), op, "context_weight", "be given with context, and only with it",
             weight ? "a tensor" : "None");
  if (!context) return 0;
  VLAE_CHECK(context->dim() == 4 && context->size(3) > 0, op, "context", "be [B, H, W, D] with D >= 1",
             shape_text(context->sizes()));
  check_map(op, "context", context, sizes_of(a, context->size(3)));
  check_float(op, "context_weight", *weight);
  check_shape(op, "context_weight", *weight, {a.p, context->size(3)});
  return context->size(3);
}

void run_gather(const char* op, const TileKernels& kernels, const TileGather& gather, const TileGatherData& data,
                int64_t pixels) {
  run_pixels(op, pixels, kTaskPixels, kTileBlock * std::max<int64_t>(gather.window.depth, 1),
             [&](int64_t first, int64_t last, Half* scratch) { kernels.gather(gather, data, first, last, scratch); });
}

}  // namespace vlae::masked_conv
