"""Layer norm and root mean square norm over the last axis, with the names of the reference."""

from __future__ import annotations

from typing import List

from fused_layers.library import run
from paddle import Tensor


def fused_ln(x: Tensor, scale: Tensor, bias: Tensor, epsilon: float) -> List[Tensor]:
    """[y, mean, invvar]: y = (x - mean) * invvar * scale + bias with invvar = 1 / sqrt(variance + epsilon).
    Differentiable in x, scale and bias."""
    return run("ext_layer_norm", x, scale, bias, float(epsilon))


def fused_rms_norm(x: Tensor, scale: Tensor, epsilon: float) -> List[Tensor]:
    """[y, invvar]: y = x * invvar * scale with invvar = 1 / sqrt(mean(x^2) + epsilon).
    Differentiable in x and scale."""
    return run("ext_rms_norm", x, scale, float(epsilon))


def fused_rms_norm_grad_func(x: Tensor, scale: Tensor, invvar: Tensor, dy: Tensor, epsilon: float) -> List[Tensor]:
    """[dx, dscale] for the gradient dy of y."""
    return run("ext_rms_norm_grad_func", x, scale, invvar, dy, float(epsilon))
