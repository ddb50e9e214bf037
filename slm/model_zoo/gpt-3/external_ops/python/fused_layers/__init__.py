"""Fused operations: float32 on a CPU; float32, float16 and bfloat16 on a GPU where Paddle is a CUDA build.

Results do not depend on the number of threads, but for those of `add_product_`. What is not a finite number stays so.
"""

from __future__ import annotations

from .layers import (
    cross_entropy_parts,
    cross_entropy_slopes_,
    embedding_grad,
    fused_adamw_,
    fused_add_rms_norm,
    fused_rope,
    fused_swiglu,
    squared_norm,
)
from .library import ISA
from .products import add_product_, causal_attention, causal_attention_grad, head_loss, product, scale_

__all__ = [
    "ISA",
    "add_product_",
    "causal_attention",
    "causal_attention_grad",
    "cross_entropy_parts",
    "cross_entropy_slopes_",
    "embedding_grad",
    "fused_adamw_",
    "fused_add_rms_norm",
    "fused_rope",
    "fused_swiglu",
    "head_loss",
    "product",
    "scale_",
    "squared_norm",
]
