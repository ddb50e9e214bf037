"""Setting the values of Paddle tensors from arrays of stored types, without a copy beside them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Iterator

import numpy as np
import paddle
from paddle import Tensor

from paddlenlp.utils.tensor_files import bf16_to_float32
from paddlenlp.utils.tensor_writer import NUMPY_TYPES, host_bytes, type_code

_CODES = {"F32": paddle.float32, "F16": paddle.float16, "BF16": paddle.bfloat16}


@contextmanager
def writable(target: Tensor) -> Iterator[np.ndarray]:
    """The memory of `target` as an array of its shape (bfloat16: uint16 bits), whose values are set within the context.

    Of a tensor on a device, or in memory that NumPy cannot address, a copy on the host, which goes there at the end.
    """
    there = target.place.is_cpu_place() and target.is_contiguous()
    host = target if there else paddle.empty(target.shape, target.dtype).cpu()
    dtype = np.dtype(NUMPY_TYPES[type_code(target)])
    yield np.frombuffer(host_bytes(host), dtype).reshape(tuple(target.shape))
    if not there:
        with paddle.no_grad():
            kept: Any = target  # Paddle's type stub lacks a parameter
            kept.copy_(host, True)


def as_values(stored: np.ndarray, code: str, dtype: Any) -> np.ndarray:
    """Numbers stored as `code` ("F32", "BF16" ...), as NumPy holds those of Paddle's type `dtype`.

    The same bits where it is that type already; else rounded by Paddle from their float32 values.
    """
    if _CODES.get(code) == dtype:
        return stored
    wide = bf16_to_float32(stored) if code == "BF16" else stored.astype(np.float32, copy=False)
    if dtype == paddle.float32:
        return wide
    return paddle.to_tensor(wide, place=paddle.CPUPlace()).astype(dtype).numpy()
