#include "isa.h"

#include <torch/csrc/stable/library.h>

#include "../checks.h"

namespace vlae {

namespace {

std::vector<Isa> find_isas() {
  std::vector<Isa> isas;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma"))
    isas.push_back({"avx512", IsaId::avx512});
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.push_back({"avx2", IsaId::avx2});
#endif
  isas.push_back({"baseline", IsaId::baseline});
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
    if (id == static_cast<int>(isa.id)) return isa;
  VLAE_CHECK(false, op, "packed", "be packed for one of " + runnable_names(), text("instruction set number ", id));
  __builtin_unreachable();
}

}  // namespace vlae

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) { m.def("isas() -> str"); }

// No tensor among its arguments tells the dispatcher of a device.
STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CompositeExplicitAutograd, m) { m.impl("isas", TORCH_BOX(&vlae::runnable_names)); }
