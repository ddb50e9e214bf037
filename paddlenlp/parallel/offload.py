"""Tensors that rest in host memory while the device computes. Where Paddle computes on a CPU they are there anyway, and
nothing is copied."""

from __future__ import annotations

from typing import Any

import paddle
from paddle import Tensor


def to_host(x: Tensor) -> Tensor:
    """`x` in page-locked host memory."""
    return x if paddle.get_device().startswith("cpu") else x.detach().pin_memory()


def to_device(x: Tensor) -> Tensor:
    """`x` where Paddle computes: itself if it is there."""
    return x.cuda() if x.place.is_cuda_pinned_place() else x


def write_back(host: Tensor, device: Tensor) -> None:
    """Bring a changed `to_device(host)` back."""
    if device is not host:
        target: Any = host  # Paddle's type stub lacks a parameter
        target.copy_(device, True)
