// Vectors of GCC of the width of the instruction set that is compiled for.
#pragma once

#define ALWAYS_INLINE inline __attribute__((always_inline))

namespace FUSED_ISA {

// Not by __AVX2__ and its like: g++ reads a whole file before it heeds a pragma that would define them.
constexpr long LANES = FUSED_LANES;

typedef float vec __attribute__((vector_size(LANES * 4)));
typedef int ivec __attribute__((vector_size(LANES * 4)));
typedef float loose __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

inline vec load(const float* p) { return *reinterpret_cast<const loose*>(p); }
inline void store(float* p, vec x) { *reinterpret_cast<loose*>(p) = x; }
inline vec all(float x) { return x - vec{}; }  // x + 0 would turn -0 into 0, so it costs an addition
inline void prefetch(const float* p) { __builtin_prefetch(p, 1, 3); }

}  // namespace FUSED_ISA
