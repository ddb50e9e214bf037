"""Float32 kernels for CPUs, written by hand from Paddle's fastest CPU operations, each with its own backward pass."""

from __future__ import annotations

from typing import Callable, Dict

from paddle import Tensor

from .attention import attention
from .loss import cross_entropy, head_loss
from .mlp import swiglu
from .norm import rms_norm
from .position import rotate


def kernels() -> Dict[str, Callable[..., Tensor]]:
    """The kernels by the names of `nn/kernels.py`."""
    chosen = (attention, cross_entropy, head_loss, rms_norm, rotate, swiglu)
    return {kernel.__name__: kernel for kernel in chosen}
