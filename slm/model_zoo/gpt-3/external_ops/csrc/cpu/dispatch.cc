#include "dispatch.h"

#include <cstdlib>
#include <cstring>
#include <initializer_list>

namespace fused {

namespace {

Isa best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return Isa::base;
  for (bool has : {__builtin_cpu_supports("avx512f") != 0, __builtin_cpu_supports("avx512bw") != 0,
                   __builtin_cpu_supports("avx512dq") != 0, __builtin_cpu_supports("avx512vl") != 0})
    if (!has) return Isa::avx2;
  return Isa::avx512;
#else
  return Isa::base;
#endif
}

Isa chosen() {
  const Isa most = best();
  const char* wanted = std::getenv("FUSED_OPS_ISA");
  for (Isa isa : {Isa::base, Isa::avx2})
    if (wanted && isa < most && !std::strcmp(wanted, name(isa))) return isa;
  return most;
}

}  // namespace

Isa isa() {
  static const Isa isa = chosen();
  return isa;
}

const char* name(Isa isa) { return isa == Isa::avx512 ? "avx512" : isa == Isa::avx2 ? "avx2" : "base"; }

}  // namespace fused

// For Python.
extern "C" __attribute__((visibility("default"))) const char* fused_ops_isa() { return fused::name(fused::isa()); }
