#include "isa.h"

#include "../checks.h"

namespace vlae {

namespace baseline {
IsaKernels kernels();
}

#if defined(__x86_64__)
namespace avx2 {
IsaKernels kernels();
}
namespace avx512 {
IsaKernels kernels();
}
#endif

namespace {

// Asking an instruction set for its table runs code compiled for it, so it comes after the question whether it runs here.
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
