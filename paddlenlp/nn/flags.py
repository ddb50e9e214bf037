"""The flags of fused operations. Importing this file does not import Paddle."""

from __future__ import annotations

from typing import Dict, Tuple

FLAGS: Dict[str, Tuple[str, ...]] = {
    "use_flash_attention": ("attention",),
    "use_fused_rms_norm": ("rms_norm",),
    "use_fused_rope": ("rotate",),
    "use_fused_swiglu": ("swiglu",),
    "use_fused_linear": ("linear",),
    "enable_linear_fused_grad_add": ("add_product",),
    "use_fused_linear_cross_entropy": ("head_loss", "cross_entropy"),
    "use_fused_embedding": ("embedding",),
    "use_fused_adamw": ("adamw", "squared_norm"),
    "use_fast_layer_norm": ("layer_norm", "rms_norm"),
    "use_fused_dropout_add": (),
}
"""Flag -> the operations it is about. For rms_norm use_fast_layer_norm counts if it is true or require."""

WORDS = ("auto", "true", "false", "require")
"""What a flag may be."""
