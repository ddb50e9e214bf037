"""Rotary frequencies: how fast each pair of features turns, and how a longer context slows it.

Everything is float32, as in Hugging Face transformers, so that angles agree at long distances too.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from paddlenlp.utils.errors import UsageError

Values = Mapping[str, Any]
"""Fields of a `rope_scaling`: numbers, and for "longrope" tuples of them."""


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


def _doubling_ntk(dim: int, base: float, values: Values, length: int) -> np.ndarray:
    """NTK-aware scaling that grows in steps: by 2^(n + 1) - 1 for sequences of up to 2^n times
    `max_position_embeddings`, with the least n that holds."""
    doublings = math.ceil(math.log2(max(length / values["max_position_embeddings"], 1)))
    return inverse_frequencies(dim, base * (2 ** (doublings + 1) - 1) ** (dim / (dim - 2)))


def _llama3(dim: int, base: float, values: Values, length: int) -> np.ndarray:
    """Llama 3.1: waves longer than original / low_freq_factor are slowed by `factor`, those shorter than original /
    high_freq_factor are kept, and in between the two are blended."""
    inverse = inverse_frequencies(dim, base)
    low, high = values["low_freq_factor"], values["high_freq_factor"]
    turns = values["original_max_position_embeddings"] * inverse / np.float32(2 * math.pi)
    kept = np.clip((turns - low) / (high - low), 0.0, 1.0).astype(np.float32)
    return (1 - kept) * inverse / np.float32(values["factor"]) + kept * inverse


def _yarn(dim: int, base: float, values: Values, length: int) -> np.ndarray:
    """YaRN (arXiv:2309.00071, section 3.2): pairs that turn less than `beta_slow` times within the original length are
    slowed by `factor`, those that turn more than `beta_fast` times are kept, and in between the two are blended."""
    inverse = inverse_frequencies(dim, base)
    low, high = (_pair_that_turns(values.get(name) or turns, dim, base, values) for name, turns in BETAS.items())
    if values.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, dim - 1)
    steps = (np.arange(dim // 2, dtype=np.float32) - low) / (high - low or 0.001)
    slowed = np.clip(steps, 0.0, 1.0).astype(np.float32)
    return inverse / np.float32(_factor(values)) * slowed + inverse * (1 - slowed)


def _pair_that_turns(times: float, dim: int, base: float, values: Values) -> float:
    """Number, with fraction, of the pair that turns so many times within the original length."""
    original = values["original_max_position_embeddings"]
    return dim * math.log(original / (times * 2 * math.pi)) / (2 * math.log(base))


def _longrope(dim: int, base: float, values: Values, length: int) -> np.ndarray:
    """LongRoPE (arXiv:2402.13753): each pair is slowed by a factor of its own, of one list for sequences up to the
    original length and of another for longer ones."""
    name = "long_factor" if length > values["original_max_position_embeddings"] else "short_factor"
    if len(values[name]) != dim // 2:
        raise UsageError(f"rope_scaling: {name} has {len(values[name])} numbers for {dim // 2} pairs of features")
    return inverse_frequencies(dim, base) / np.array(values[name], dtype=np.float32)


def _factor(values: Values) -> float:
    """How much longer than originally sequences may be."""
    if "factor" in values:
        return values["factor"]
    return values["max_position_embeddings"] / values["original_max_position_embeddings"]


def _yarn_amplitude(values: Values) -> float:
    if values.get("attention_factor") is not None:
        return values["attention_factor"]
    factor, own, whole = _factor(values), values.get("mscale"), values.get("mscale_all_dim")
    return yarn_mscale(factor, own) / yarn_mscale(factor, whole) if own and whole else yarn_mscale(factor)


def _longrope_amplitude(values: Values) -> float:
    if values.get("attention_factor") is not None:
        return values["attention_factor"]
    stretch = math.log(max(_factor(values), 1.0)) / math.log(values["original_max_position_embeddings"])
    return math.sqrt(1 + stretch)


def yarn_mscale(factor: float, weight: float = 1.0) -> float:
    """0.1 weight ln(factor) + 1: by what queries and keys grow, so that attention over longer texts stays as sharp
    (arXiv:2309.00071, section 3.4; `weight` is DeepSeek's)."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def score_factor(scaling: Optional[Values], max_length: int) -> float:
    """Factor of q k' beside 1 / sqrt(width), where only some of the features are turned: `mscale_all_dim` of DeepSeek
    makes up for cosines and sines that `mscale` would have made larger for all.

    Args:
        scaling: `rope_scaling` of a configuration, or None.
        max_length: `max_position_embeddings`.
    """
    weight = (scaling or {}).get("mscale_all_dim")
    return (
        yarn_mscale(_factor({"max_position_embeddings": max_length, **(scaling or {})}), weight) ** 2 if weight else 1.0
    )


class Scaling(NamedTuple):
    """A type of scaling.

    Attributes:
        frequencies: (features of a head, base, values, tokens of the sequence) -> radians a position, of each pair.
        needed, optional: names of the values it takes.
        amplitude: factor of cosines and sines.
        longer_than: the needed value that is the length up to which that of the sequence does not matter; None where
            it never does.
        keeps: while generating, the length that matters is what was read first, so that all keys turn alike.
    """

    frequencies: Callable[[int, float, Values, int], np.ndarray]
    needed: Tuple[str, ...] = ()
    optional: Tuple[str, ...] = ()
    amplitude: Callable[[Values], float] = lambda values: 1.0
    longer_than: Optional[str] = None
    keeps: bool = False


ORIGINAL = "original_max_position_embeddings"
BETAS = {"beta_fast": 32.0, "beta_slow": 1.0}
SCALINGS: Dict[str, Scaling] = {
    "default": Scaling(_default),
    "linear": Scaling(_linear, ("factor",)),
    "ntk": Scaling(_ntk, ("factor",)),
    "dynamic": Scaling(_dynamic, ("factor", "max_position_embeddings"), longer_than="max_position_embeddings"),
    "doubling_ntk": Scaling(
        _doubling_ntk, ("max_position_embeddings",), longer_than="max_position_embeddings", keeps=True
    ),
    "llama3": Scaling(_llama3, ("factor", "low_freq_factor", "high_freq_factor", ORIGINAL)),
    "yarn": Scaling(
        _yarn,
        (ORIGINAL, "max_position_embeddings"),
        ("factor", "attention_factor", *BETAS, "mscale", "mscale_all_dim", "truncate"),
        _yarn_amplitude,
    ),
    "longrope": Scaling(
        _longrope,
        (ORIGINAL, "max_position_embeddings", "short_factor", "long_factor"),
        ("factor", "attention_factor"),
        _longrope_amplitude,
        longer_than=ORIGINAL,
    ),
}
"""Type of scaling -> what it does."""


def check_scaling(kind: str, values: Values) -> None:
    """Refuse a type of scaling that is not known or lacks a value.

    Raises:
        UsageError: naming what was found and what is possible.
    """
    if kind not in SCALINGS:
        raise UsageError(f"rope_scaling of type {kind!r} is not known; known: {', '.join(SCALINGS)}")
    missing = [name for name in SCALINGS[kind].needed if name not in values]
    if missing:
        raise UsageError(f"rope_scaling of type {kind!r} lacks {', '.join(missing)}; found {dict(values)}")
