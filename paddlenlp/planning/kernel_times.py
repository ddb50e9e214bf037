"""How long a device takes for products, attention and what only moves memory.

One set of constants for all devices, models and layouts; what differs between devices is in hardware.json.
"""

from __future__ import annotations

from functools import lru_cache
from math import ceil
from typing import Tuple

from .hardware import Hardware

TILES = ((256, 128, 1.0), (128, 128, 0.95), (64, 128, 0.8))
"""Blocks of a result, each the work of one processor at a time, and how near they come to its peak: the smaller, the
more operands are read for each operation."""

FILL = 256
"""Terms of a sum in whose time a block's first operands arrive and its result leaves. A product with fewer terms is
that much further from the peak: cuBLAS reaches about half of it at 256."""

STREAM = 0.85
"""Of the memory's peak speed: what copies and element-wise kernels reach on A100 and H100 (BabelStream: 0.86, 0.90)."""

LAUNCH = 4e-6
"""Seconds from one kernel to the next on a stream, where the host keeps ahead."""

SHORT = 512
"""Keys in whose time a row of flash attention starts and ends: at this length it reaches half of what it tends to in
long sequences (arXiv:2307.08691, figures 4 to 6)."""

FLASH_BACKWARD = 2.5
"""Products of the backward pass over those of the forward pass: five instead of two (arXiv:2307.08691)."""

SCORE_BYTES = {"plain": (62, 70), "softmax": (13, 19)}
"""Bytes that go through memory for each score, forward and backward, where scores are stored. "plain": nn/plain.py,
one operation after the other in float32. "softmax": 16 bits with scale, mask and softmax fused, and dropout, as in
arXiv:2104.04473, section 4.2."""


@lru_cache(maxsize=1 << 16)
def product(hw: Hardware, m: int, n: int, k: int, width: int) -> float:
    """Seconds of [m, k] x [k, n] in elements of `width` bytes: by operations or by bytes, whichever takes longer."""
    dtype = "float32" if width == 4 else "bfloat16"
    rate = hw.peak(dtype) * (_asymptote(hw) if width == 2 else hw.best_product)
    operations = 2.0 * m * n * k / (rate * _filled(hw, m, n, k))
    return LAUNCH + max(operations, moved(hw, width * (m * k + k * n + m * n)))


def _filled(hw: Hardware, m: int, n: int, k: int) -> float:
    """Share of the processors' time that goes into the result: the rest are blocks over its edge, processors without
    one in the last round, and the beginnings and ends of blocks."""
    if hw.is_cpu:
        return 1.0
    best = max(
        speed * m * n / (ceil(ceil(m / a) * ceil(n / b) / hw.processors) * hw.processors * a * b)
        for rows, columns, speed in TILES
        for a, b in {(rows, columns), (columns, rows)}
    )
    return best * k / (k + FILL)


@lru_cache(maxsize=64)
def _asymptote(hw: Hardware) -> float:
    """Share of the peak in an endless product: from the fastest one measured, whose blocks did not fit perfectly."""
    return hw.best_product if hw.gemm_shape is None else min(1.0, hw.best_product / _filled(hw, *hw.gemm_shape))


def moved(hw: Hardware, count: float) -> float:
    """Seconds for so many bytes to and from memory."""
    return count / (hw.memory_gb_s * 1e9 * STREAM)


def elementwise(hw: Hardware, count: float, kernels: int) -> float:
    """Seconds of so many kernels that move `count` bytes together."""
    return moved(hw, count) + kernels * LAUNCH


def flash(hw: Hardware, pairs: float, widths: int, length: int, bias_bytes: float = 0.0) -> Tuple[float, float]:
    """Seconds of a flash attention, forward and backward.

    Args:
        pairs: of a query and a key that are computed, over all heads.
        widths: of a key and a value together.
        length: keys of a row.
        bias_bytes: of a bias that is read in each pass.
    """
    operations, peak = 2.0 * pairs * widths, hw.peak("bfloat16") * length / (length + SHORT)
    forward, backward = hw.attention
    return (
        operations / (peak * forward) + moved(hw, bias_bytes),
        FLASH_BACKWARD * operations / (peak * backward) + moved(hw, bias_bytes),
    )


def blocks(hw: Hardware, pairs: float, widths: int, share: float) -> Tuple[float, float]:
    """Seconds, forward and backward, of an attention on a CPU that goes through `pairs` block by block at a `share` of
    the peak; as for `flash`."""
    forward = 2.0 * pairs * widths / (hw.peak("float32") * share)
    return forward, FLASH_BACKWARD * forward


def stored_scores(hw: Hardware, pairs: float, widths: int, length: int, width: int, kind: str) -> Tuple[float, float]:
    """Seconds, forward and backward, of an attention that stores its scores: products, then bytes; see SCORE_BYTES."""
    heads_rows = max(1, round(pairs / length))
    products = product(hw, heads_rows, length, max(1, widths // 2), width) * 2
    forward, backward = SCORE_BYTES[kind]
    scale = width / 2 if kind == "softmax" else 1.0
    return products + moved(hw, pairs * forward * scale), 2 * products + moved(hw, pairs * backward * scale)
