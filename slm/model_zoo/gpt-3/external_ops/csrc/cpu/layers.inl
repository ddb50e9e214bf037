// The table of one instruction set.
#include "layers.h"

#include "activations.h"
#include "cross_entropy.h"
#include "embedding_grad.h"
#include "norms.h"
#include "optimizer.h"

namespace FUSED_ISA {

const fused::Layers layers = {
    rms_norm, add_rms_norm,        rms_norm_grad,        layer_norm, layer_norm_grad, rope,           swiglu,
    swiglu_grad, cross_entropy_parts, cross_entropy_slopes, adamw,      squared_norm,    embedding_grad,
};

}  // namespace FUSED_ISA
