#include "isa.h"

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <torch/csrc/stable/library.h>

#include "../checks.h"

namespace vlae {

namespace {

std::vector<Isa> find_isas([[maybe_unused]] Storage storage) {
  std::vector<Isa> isas;
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma")) {
    if (storage == Storage::bfloat16 && __builtin_cpu_supports("avx512bf16"))
      isas.push_back({"avx512_bf16", IsaId::avx512_bf16});
    isas.push_back({"avx512", IsaId::avx512});
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.push_back({"avx2", IsaId::avx2});
  if (__builtin_cpu_supports("avx2")) isas.push_back({"avx2_unfused", IsaId::avx2_unfused});
#endif
#if defined(__aarch64__)
  isas.push_back({"neon", IsaId::neon});  // every one has it
#endif
  isas.push_back({"baseline", IsaId::baseline});
  return isas;
}

std::string names_of(Storage storage) {
  std::string names;
  for (const Isa& isa : runnable_isas(storage)) {
    if (!names.empty()) names += ',';
    names += isa.name;
  }
  return names;
}

std::string runnable_names(std::string dtype) { return names_of(storage_by_name("isas", dtype)); }

// The kernel gives a process the tiles' memory when it asks: 8 KB for each thread.
bool ask_for_matrix_tiles() {
#if defined(__x86_64__) && defined(__linux__)
  constexpr unsigned kTiles = 1u << 24, kBfloat16Products = 1u << 22;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
  unsigned a, b, c, d;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d & kTiles) == 0 || (d & kBfloat16Products) == 0) return false;
  const bool vectors = runnable_isas(Storage::bfloat16)[0].id == IsaId::avx512_bf16;  // which the same kernels need
  return vectors && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

}  // namespace

bool has_matrix_tiles() {
  static const bool able = ask_for_matrix_tiles();
  return able;
}

Storage storage_by_name(const char* op, const std::string& dtype) {
  VLAE_CHECK(dtype == "float32" || dtype == "bfloat16", op, "dtype", "be float32 or bfloat16", dtype);
  return dtype == "bfloat16" ? Storage::bfloat16 : Storage::float32;
}

const std::vector<Isa>& runnable_isas(Storage storage) {
  static const std::vector<Isa> isas[] = {find_isas(Storage::float32), find_isas(Storage::bfloat16)};
  return isas[static_cast<int>(storage)];
}

const Isa& isa_by_name(const char* op, const std::string& name, Storage storage) {
  for (const Isa& isa : runnable_isas(storage))
    if (name.empty() || name == isa.name) return isa;
  VLAE_CHECK(false, op, "isa", "be empty or one of " + names_of(storage), name);
  __builtin_unreachable();
}

const Isa& isa_by_id(const char* op, int id, Storage storage) {
  for (const Isa& isa : runnable_isas(storage))
    if (id == static_cast<int>(isa.id)) return isa;
  VLAE_CHECK(false, op, "packed", "be packed for one of " + names_of(storage), text("instruction set number ", id));
  __builtin_unreachable();
}

}  // namespace vlae

STABLE_TORCH_LIBRARY_FRAGMENT(vlae_fast_cpu, m) {
  m.def("isas(str dtype=\"float32\") -> str");
  m.def("has_matrix_tiles() -> bool");
}

// No tensor among their arguments tells the dispatcher of a device.
STABLE_TORCH_LIBRARY_IMPL(vlae_fast_cpu, CompositeExplicitAutograd, m) {
  m.impl("isas", TORCH_BOX(&vlae::runnable_names));
  m.impl("has_matrix_tiles", TORCH_BOX(&vlae::has_matrix_tiles));
}
