// Begins a translation unit for AVX-512 (F, BW, DQ, VL). "isa_end.h" ends it.
#pragma once

#include "headers.h"
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#define FUSED_ISA avx512
#define FUSED_LANES 16
