"""Norms over the features of each token. Their parameters are whole on every rank."""

from __future__ import annotations

from typing import Optional

from paddle import Tensor, nn

from paddlenlp.parallel.layers import make_parameter

from . import kernels


class RMSNorm(nn.Layer):
    """x / rms(x) * (offset + weight), in float32. Gemma stores weight - 1, hence `offset`.

    `partial_grad` is "always" for a norm over the features of single heads, which are cut over the tensor-parallel
    ranks; see `make_parameter`.
    """

    def __init__(
        self, hidden_size: int, eps: float = 1e-6, offset: float = 0.0, partial_grad: Optional[str] = None
    ) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = make_parameter(self, [hidden_size], value=1.0 - offset, partial_grad=partial_grad)

    def forward(self, x: Tensor) -> Tensor:
        return kernels.rms_norm(x, self.weight, self.eps, self.offset)


class LayerNorm(nn.Layer):
    """(x - mean) / sqrt(variance + eps) * weight + bias, in float32."""

    def __init__(self, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = make_parameter(self, [hidden_size], value=1.0)
        self.bias = make_parameter(self, [hidden_size])

    def forward(self, x: Tensor) -> Tensor:
        return kernels.layer_norm(x, self.weight, self.bias, self.eps)
