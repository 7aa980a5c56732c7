// The instruction sets compiled into this library, and which of them this machine runs.
#pragma once

#include <string>
#include <vector>

namespace vlae {

// Kept in packed tensors: never reuse a number.
enum class IsaId : int {
  baseline = 1,
#if defined(__x86_64__)
  avx2 = 2,
  avx512 = 3,
#endif
};

#if defined(__x86_64__)
#define VLAE_FOR_EACH_ISA(use) use(baseline) use(avx2) use(avx512)
#else
#define VLAE_FOR_EACH_ISA(use) use(baseline)
#endif

struct Isa {
  const char* name;
  IsaId id;
};

// Best first.
const std::vector<Isa>& runnable_isas();
std::string runnable_names();
// "" is the best one.
const Isa& isa_by_name(const char* op, const std::string& name);
const Isa& isa_by_id(const char* op, int id);

}  // namespace vlae

// In the namespace of a family, whose `Kernels` have a member per kernel: `kernels_of(isa)` are those of an instruction set.
// They come from `<family>::<isa>::kernels()`, compiled for it: only a machine that runs it may ask.
#define VLAE_KERNELS_OF_ISA                                    \
  VLAE_FOR_EACH_ISA(VLAE_DECLARE_KERNELS)                      \
  inline Kernels kernels_of(const Isa& isa) {                  \
    switch (isa.id) { VLAE_FOR_EACH_ISA(VLAE_RETURN_KERNELS) } \
    __builtin_unreachable();                                   \
  }                                                            \
  static_assert(true)  // takes the semicolon
#define VLAE_DECLARE_KERNELS(isa) \
  namespace isa {                 \
  Kernels kernels();              \
  }
#define VLAE_RETURN_KERNELS(isa) \
  case IsaId::isa: return isa::kernels();
