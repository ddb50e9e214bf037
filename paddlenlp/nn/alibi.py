"""Slopes of linear position biases (Press et al., arXiv:2108.12409)."""

from __future__ import annotations

import math

import numpy as np


def alibi_slopes(heads: int) -> np.ndarray:
    """How fast the scores of each head fall with the distance of the key: float32 [heads].

    For n heads, a power of two: 2^(-8/n), 2^(-16/n), ... For others the slopes of the power of two below, then every
    second one of the next power of two, as the authors do.
    """
    below = 2 ** int(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / below) for i in range(below)]
    slopes += [2.0 ** (-4.0 * (2 * i + 1) / below) for i in range(heads - below)]
    return np.array(slopes, np.float32)
