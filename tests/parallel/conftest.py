"""Puts this folder's own modules within reach of its tests, and names the fixtures that are in them."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from launcher import hosts, started

__all__ = ["hosts", "started"]
