// The table of one instruction set.
#include "products.h"

#include "attention.h"
#include "attention_grad.h"
#include "gemm.h"
#include "head_loss.h"
#include "simd.h"

namespace FUSED_ISA {

inline void scale(long size, float* x, float factor) {
  in_parts(size, 1, [&](long first, long last) {
    along(last - first, [&](auto at) { at.put(x + first, at.of(x + first) * factor); });
  });
}

const fused::Products products = {product, head_loss, attention, attention_grad, scale};

}  // namespace FUSED_ISA
