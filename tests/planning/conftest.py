"""Puts the tables of families and layouts, and this folder's own modules, within reach of its tests."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "parallel"), str(HERE.parent / "transformers")]
