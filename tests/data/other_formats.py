"""Datasets as other programs write them."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np


def write_with_modes(source, prefix, modes=None):
    """Write the mmap dataset `source` as Megatron-core writes multimodal data: an int8 mode for each sequence."""
    index = Path(source + ".idx").read_bytes()
    (sequences,) = struct.unpack_from("<Q", index, 18)
    Path(prefix + ".idx").write_bytes(index + np.array(modes or [0] * sequences, np.int8).tobytes())
    Path(prefix + ".bin").write_bytes(Path(source + ".bin").read_bytes())
