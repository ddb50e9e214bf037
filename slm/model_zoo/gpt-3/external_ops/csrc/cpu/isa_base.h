// Begins a translation unit for what every processor of the architecture has. "isa_end.h" ends it.
#pragma once

#include "headers.h"
#pragma GCC push_options
#define FUSED_ISA base
#define FUSED_LANES 4
