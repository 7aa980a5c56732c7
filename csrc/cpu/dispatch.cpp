#include "isa.h"

#include "../checks.h"

namespace vlae {

// What the files compiled for an instruction set export; asking runs code compiled for it.
#define VLAE_EXPORTS(isa)                    \
  namespace isa {                            \
  MaskedConvKernels masked_conv_kernels();   \
  PixelcnnKernels pixelcnn_kernels();        \
  MadeKernels made_kernels();                \
  LinearKernels linear_kernels();            \
  inline IsaKernels kernels() {              \
    return {                                 \
        masked_conv_kernels(),               \
        pixelcnn_kernels(),                  \
        made_kernels(),                      \
        linear_kernels(),                    \
    };                                       \
  }                                          \
  }

VLAE_EXPORTS(baseline)
#if defined(__x86_64__)
VLAE_EXPORTS(avx2)
VLAE_EXPORTS(avx512)
#endif

namespace {

// The question whether an instruction set runs here comes before its code does.
void add(std::vector<Isa>& isas, const char* name, int id, bool (*runs_here)(), IsaKernels (*kernels)()) {
  if (runs_here()) isas.push_back({name, id, kernels()});
}

std::vector<Isa> find_isas() {
  std::vector<Isa> isas;
#if defined(__x86_64__)
  add(isas, "avx512", 3, [] {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
  }, avx512::kernels);
  add(isas, "avx2", 2, [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }, avx2::kernels);
#endif
  add(isas, "baseline", 1, [] { return true; }, baseline::kernels);
  return isas;
}

}  // namespace

const std::vector<Isa>& runnable_isas() {
  static const std::vector<Isa> isas = find_isas();
  return isas;
}

std::string runnable_names() {
  std::string names;
  for (const Isa& isa : runnable_isas()) {
    if (!names.empty()) names += ',';
    names += isa.name;
  }
  return names;
}

const Isa& isa_by_name(const char* op, const std::string& name) {
  for (const Isa& isa : runnable_isas())
    if (name.empty() || name == isa.name) return isa;
  VLAE_CHECK(false, op, "isa", "be empty or one of " + runnable_names(), name);
  __builtin_unreachable();
}

const Isa& isa_by_id(const char* op, int id) {
  for (const Isa& isa : runnable_isas())
    if (id == isa.id) return isa;
  VLAE_CHECK(false, op, "packed", "be packed for one of " + runnable_names(), text("instruction set number ", id));
  __builtin_unreachable();
}

}  // namespace vlae
