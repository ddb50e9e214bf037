// Ends what isa_base.h, isa_avx2.h or isa_avx512.h began.
#pragma GCC pop_options
