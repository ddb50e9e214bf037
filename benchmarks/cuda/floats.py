"""The float types of the kernels as numpy arrays: bfloat16, which numpy lacks, is kept as its bits."""

from __future__ import annotations

from typing import Dict, List

import numpy as np

TYPES: List[str] = ["float32", "float16", "bfloat16"]
"""In the order of their numbers in launchers.h."""

UNIT: Dict[str, float] = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""The greatest relative error of rounding to a type."""

SMALLEST: Dict[str, float] = {"float32": 2.0**-126, "float16": 2.0**-14, "bfloat16": 2.0**-126}
"""The smallest normal numbers: below them the error of rounding is that at them."""

STORED = {"float32": np.float32, "float16": np.float16, "bfloat16": np.uint16, "int64": np.int64}


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    """`values` rounded to `dtype`, to nearest, ties to even, by way of float32."""
    if dtype != "bfloat16":
        return values.astype(STORED[dtype])
    wide = np.ascontiguousarray(values, np.float32)
    bits = wide.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(wide), np.uint32(0x7FFF), rounded).astype(np.uint16)


def decode(stored: np.ndarray, dtype: str) -> np.ndarray:
    """What `encode` made, as float64 (int64 stays)."""
    if dtype == "bfloat16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    return stored if dtype == "int64" else stored.astype(np.float64)
