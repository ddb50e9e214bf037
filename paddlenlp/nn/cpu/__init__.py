"""Float32 kernels for CPUs, written by hand from Paddle's fastest CPU operations, each with its own backward pass."""

from __future__ import annotations

from typing import Callable, Dict

from paddle import Tensor

from . import attention, loss, mlp, norm, position


def kernels() -> Dict[str, Callable[..., Tensor]]:
    """The kernels by the names of `nn/kernels.py`."""
    return {
        "attention": attention.attention,
        "cross_entropy": loss.cross_entropy,
        "head_loss": loss.head_loss,
        "rms_norm": norm.rms_norm,
        "rotate": position.rotate,
        "swiglu": mlp.swiglu,
    }
