// Begins a translation unit for AVX2 and FMA. "isa_end.h" ends it.
#pragma once

#include "headers.h"
#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define FUSED_ISA avx2
#define FUSED_LANES 8
