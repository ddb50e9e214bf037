#if defined(__x86_64__)
#include "isa_avx512.h"
#include "layers.inl"
#include "isa_end.h"
#endif
