"""Rotary frequencies: how fast each pair of features turns, and how a longer context slows it.

Everything is float32, as in Hugging Face transformers, so that angles agree at long distances too.
"""

from __future__ import annotations

import math
from typing import Callable, Dict, Mapping, Tuple

import numpy as np

from paddlenlp.utils.errors import UsageError

Values = Mapping[str, float]


def inverse_frequencies(dim: int, base: float) -> np.ndarray:
    """1 / base^(2i / dim) for i < dim / 2: radians a position (arXiv:2104.09864, section 3.2.2)."""
    exponents = np.arange(0, dim, 2, dtype=np.float32) / np.float32(dim)
    # The power is taken in float64 and rounded once, which is what a correctly rounded float32 power gives.
    return np.float32(1) / np.power(np.float64(base), exponents.astype(np.float64)).astype(np.float32)


def _default(dim: int, base: float, values: Values, length: int) -> np.ndarray:
    return inverse_frequencies(dim, base)


def _linear(dim: int, base: float, values: Values, length: int) -> np.ndarray:
    """Position interpolation (arXiv:2306.15595): positions are divided by `factor`."""
    return inverse_frequencies(dim, base) / np.float32(values["factor"])


def _ntk(dim: int, base: float, values: Values, length: int) -> np.ndarray:
    """NTK-aware scaling: a greater base stretches the slow pairs by `factor` and leaves the fast ones."""
    return inverse_frequencies(dim, base * values["factor"] ** (dim / (dim - 2)))


def _dynamic(dim: int, base: float, values: Values, length: int) -> np.ndarray:
    """NTK-aware scaling by how far the sequence exceeds `max_position_embeddings`; shorter ones are left as they
    are."""
    factor, trained = values["factor"], values["max_position_embeddings"]
    stretch = factor * max(length, trained) / trained - (factor - 1)
    return inverse_frequencies(dim, base * stretch ** (dim / (dim - 2)))


def _llama3(dim: int, base: float, values: Values, length: int) -> np.ndarray:
    """Llama 3.1: waves longer than original / low_freq_factor are slowed by `factor`, those shorter than original /
    high_freq_factor are kept, and in between the two are blended."""
    inverse = inverse_frequencies(dim, base)
    low, high = values["low_freq_factor"], values["high_freq_factor"]
    turns = values["original_max_position_embeddings"] * inverse / np.float32(2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return (1 - kept) * inverse / np.float32(values["factor"]) + kept * inverse


SCALINGS: Dict[str, Tuple[Callable[[int, float, Values, int], np.ndarray], Tuple[str, ...]]] = {
    "default": (_default, ()),
    "linear": (_linear, ("factor",)),
    "ntk": (_ntk, ("factor",)),
    "dynamic": (_dynamic, ("factor", "max_position_embeddings")),
    "llama3": (_llama3, ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")),
}
"""Type of scaling -> its function, and the values it needs."""


def check_scaling(kind: str, values: Values) -> None:
    """Refuse a type of scaling that is not known or lacks a value.

    Raises:
        UsageError: naming what was found and what is possible.
    """
    if kind not in SCALINGS:
        raise UsageError(f"rope_scaling of type {kind!r} is not known; known: {', '.join(SCALINGS)}")
    missing = [name for name in SCALINGS[kind][1] if name not in values]
    if missing:
        raise UsageError(f"rope_scaling of type {kind!r} lacks {', '.join(missing)}; found {dict(values)}")
