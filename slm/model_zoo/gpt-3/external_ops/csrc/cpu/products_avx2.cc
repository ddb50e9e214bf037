#if defined(__x86_64__)
#include "isa_avx2.h"
#include "products.inl"
#include "isa_end.h"
#endif
