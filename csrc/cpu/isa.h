// The instruction sets compiled into this library, and which of them this machine runs.
#pragma once

#include <string>
#include <vector>

#include "storage.h"

namespace vlae {

// Kept in packed tensors: never reuse a number. Those that fuse no multiply-add, baseline and avx2_unfused, have the same
// bits wherever a sum stays in its lane, which those of a masked convolution and of a stage of kind sum do.
enum class IsaId : int {
  baseline = 1,  // vectors of four, on every machine
#if defined(__aarch64__)
  neon = 5,
#endif
#if defined(__x86_64__)
  avx2 = 2,
  avx512 = 3,
  avx512_bf16 = 4,
  avx2_unfused = 6,
#endif
};

// Those of csrc/build.json that every family has kernels for, those of the families that compute in bfloat16 too, and those
// that multiply matrices tile by tile: no numbers of theirs are in packed tensors.
#if defined(__x86_64__)
#define VLAE_FOR_EACH_ISA(use) use(baseline) use(avx2) use(avx2_unfused) use(avx512)
#define VLAE_FOR_EACH_BFLOAT16_ISA(use) VLAE_FOR_EACH_ISA(use) use(avx512_bf16)
#define VLAE_FOR_EACH_TILE_ISA(use) use(amx)
#elif defined(__aarch64__)
#define VLAE_FOR_EACH_ISA(use) use(neon) use(baseline)
#define VLAE_FOR_EACH_BFLOAT16_ISA(use) VLAE_FOR_EACH_ISA(use)
#define VLAE_FOR_EACH_TILE_ISA(use)
#else
#define VLAE_FOR_EACH_ISA(use) use(baseline)
#define VLAE_FOR_EACH_BFLOAT16_ISA(use) VLAE_FOR_EACH_ISA(use)
#define VLAE_FOR_EACH_TILE_ISA(use)
#endif

struct Isa {
  const char* name;
  IsaId id;
};

// Throws unless the name is that of a storage.
Storage storage_by_name(const char* op, const std::string& dtype);

// Best first. Every one computes in bfloat16, those without its products on numbers widened to float32.
const std::vector<Isa>& runnable_isas(Storage storage);
// Whether the processor multiplies matrices of bfloat16 tile by tile, as Intel's AMX does, and the system lets it.
bool has_matrix_tiles();
// "" is the best one.
const Isa& isa_by_name(const char* op, const std::string& name, Storage storage = Storage::float32);
const Isa& isa_by_id(const char* op, int id, Storage storage);

}  // namespace vlae

// In the namespace of a family, whose `Kernels` have a member per kernel: `kernels_of(isa)` are those of an instruction set.
// They come from `<family>::<isa>::kernels()`, compiled for it: only a machine that runs it may ask.
#define VLAE_KERNELS_OF(for_each)                                            \
  for_each(VLAE_DECLARE_KERNELS) inline Kernels kernels_of(const Isa& isa) { \
    for_each(VLAE_RETURN_KERNELS) __builtin_unreachable();                   \
  }                                                                          \
  static_assert(true)  // takes the semicolon
#define VLAE_DECLARE_KERNELS(isa) \
  namespace isa {                 \
  Kernels kernels();              \
  }
#define VLAE_RETURN_KERNELS(name) \
  if (isa.id == IsaId::name) return name::kernels();
