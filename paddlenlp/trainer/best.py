"""Which of two values of `metric_for_best_model` is better."""

from __future__ import annotations

import math
from typing import Optional


def is_better(value: float, best: Optional[float], greater: bool, threshold: float = 0.0) -> bool:
    """Whether `value` beats `best` by more than `threshold`; NaN beats nothing, anything else beats None."""
    if math.isnan(value):
        return False
    if best is None:
        return True
    return value - best > threshold if greater else best - value > threshold
