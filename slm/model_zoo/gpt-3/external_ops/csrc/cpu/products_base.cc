#include "isa_base.h"
#include "products.inl"
#include "isa_end.h"
