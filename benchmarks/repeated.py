"""What the scripts that run something again and again report."""

from __future__ import annotations

import os
import statistics
import time
from typing import Any, Dict, Sequence


def summary(outcomes: Sequence[str], seconds: Sequence[float]) -> Dict[str, Any]:
    """How many of the runs "failed" or "hung", how long they took, and where and when that was."""
    return {
        "failures": outcomes.count("failed"),
        "hangs": outcomes.count("hung"),
        "seconds_median": round(statistics.median(seconds), 1),
        "seconds_longest": round(max(seconds), 1),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d"),
    }
