"""Arrays that are made block by block, for those who write them to a file and need not hold them whole."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Iterator, Tuple

import numpy as np


@dataclass(frozen=True)
class StreamedArray:
    """An array along whose first axis blocks follow one another. `np.asarray` holds it whole.

    Attributes:
        shape, dtype: of the array.
        blocks: makes it anew at each call: (place of the block's first row, its rows).
    """

    shape: Tuple[int, ...]
    dtype: np.dtype
    blocks: Callable[[], Iterator[Tuple[int, np.ndarray]]]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole array."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    def __array__(self, dtype: Any = None, copy: Any = None) -> np.ndarray:
        whole = np.zeros(self.shape, self.dtype)
        for first, rows in self.blocks():
            whole[first : first + len(rows)] = rows
        return whole if dtype is None else whole.astype(dtype)


__all__ = ["StreamedArray"]
