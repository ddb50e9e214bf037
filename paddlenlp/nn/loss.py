"""Which tokens count in the loss."""

from __future__ import annotations

from typing import Iterable

import paddle
from paddle import Tensor

from .plain import IGNORED


def kept_tokens(labels: Iterable[Tensor]) -> Tensor:
    """How many labels are not IGNORED in all tensors together: float32 scalar."""
    counts = [(label != IGNORED).sum().astype("float32") for label in labels]
    return paddle.add_n(counts) if len(counts) > 1 else counts[0]
