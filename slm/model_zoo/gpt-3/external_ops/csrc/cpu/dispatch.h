// Which instruction set runs. The kernels are compiled once for each, in a namespace of its name, and reached through
// tables of function pointers.
#pragma once

namespace fused {

enum class Isa { base, avx2, avx512 };

// The best one that this processor and operating system have, or a lesser one that the environment variable
// FUSED_OPS_ISA names (base, avx2, avx512). Looked up once.
Isa isa();
const char* name(Isa isa);

}  // namespace fused

// Declares the table `name` of each instruction set; FUSED_PICK(name) is the one to use.
#if defined(__x86_64__)
#define FUSED_TABLE(Table, name)                \
  namespace base { extern const Table name; }   \
  namespace avx2 { extern const Table name; }   \
  namespace avx512 { extern const Table name; }
#define FUSED_PICK(name)                             \
  (fused::isa() == fused::Isa::avx512 ? avx512::name \
   : fused::isa() == fused::Isa::avx2 ? avx2::name   \
                                      : base::name)
#else
#define FUSED_TABLE(Table, name) \
  namespace base { extern const Table name; }
#define FUSED_PICK(name) (base::name)
#endif
