#include "isa_base.h"
#include "layers.inl"
#include "isa_end.h"
