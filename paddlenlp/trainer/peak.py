"""Peak speed of the device, the denominator of MFU: from a table for known GPUs, else measured once."""

from __future__ import annotations

import functools
import os
import re
import time
from typing import Any, Dict, Optional

#: Dense peaks in TFLOP/s from the makers' data sheets (no sparsity; float32 without tensor cores).
#: The first entry whose words are all in the device's name holds.
PEAKS: Dict[str, Dict[str, float]] = {
    "H100 PCIe": {"bfloat16": 756.0, "float16": 756.0, "float32": 51.0},
    "H100 NVL": {"bfloat16": 835.0, "float16": 835.0, "float32": 60.0},
    "H100": {"bfloat16": 989.4, "float16": 989.4, "float32": 66.9},
    "H200": {"bfloat16": 989.4, "float16": 989.4, "float32": 66.9},
    "H800 PCIe": {"bfloat16": 756.0, "float16": 756.0, "float32": 51.0},
    "H800": {"bfloat16": 989.4, "float16": 989.4, "float32": 66.9},
    "A100": {"bfloat16": 312.0, "float16": 312.0, "float32": 19.5},
    "A800": {"bfloat16": 312.0, "float16": 312.0, "float32": 19.5},
    "4090 D": {"bfloat16": 147.1, "float16": 147.1, "float32": 73.5},
    "4090": {"bfloat16": 165.2, "float16": 165.2, "float32": 82.6},
}

#: A measurement multiplies square matrices of this side, then of twice the side and so on, each a few times, until one
#: product takes long enough to fill the device.
FIRST_SIDE, LAST_SIDE, TRIES, LONG_ENOUGH = 256, 8192, 6, 0.01


def table_peak(device_name: str, dtype: str) -> Optional[float]:
    """Dense peak in TFLOP/s of a GPU by its name ("NVIDIA A100-SXM4-80GB"), None if it is not in the table."""
    found = set(re.split(r"[\s-]+", device_name))
    for words, peaks in PEAKS.items():
        if found.issuperset(words.split()):
            return peaks[dtype]
    return None


@functools.cache
def peak_tflops(dtype: str = "float32") -> float:
    """Peak of the present device in TFLOP/s for matrix products of `dtype`; measured or looked up once a process.

    On a CPU low-precision runs compute in float32, so the float32 product is measured whatever `dtype` is. The measured
    value is that of the threads Paddle uses.
    """
    import paddle

    if not paddle.get_device().startswith("gpu"):
        return measured_tflops("float32")
    return table_peak(paddle.device.cuda.get_device_name(), dtype) or measured_tflops(dtype)


def peak_origin(dtype: str = "float32") -> str:
    """Where `peak_tflops` has its figure from, in words."""
    import paddle

    if not paddle.get_device().startswith("gpu"):
        threads = os.environ.get("OMP_NUM_THREADS") or "1"
        return f"the fastest float32 matrix product measured here, on OMP_NUM_THREADS = {threads}"
    name = paddle.device.cuda.get_device_name()
    return f"the data sheet's for {name}" if table_peak(name, dtype) else f"the fastest product measured on {name}"


@functools.cache
def measured_tflops(dtype: Any) -> float:
    """Speed of the fastest of some products of square matrices, in TFLOP/s; takes about a tenth of a second, once a
    process."""
    import paddle

    side, best = FIRST_SIDE, 0.0
    with paddle.no_grad():
        while True:
            matrix = paddle.full([side, side], 1.0 / side, dtype=dtype)
            seconds = min(_seconds(matrix) for _ in range(TRIES))
            best = max(best, 2.0 * side**3 / seconds / 1e12)
            if seconds > LONG_ENOUGH or side >= LAST_SIDE:
                return best
            side *= 2


def _seconds(matrix: Any) -> float:
    """Time of one product of `matrix` with itself, with the wait for the device."""
    import paddle

    start = time.perf_counter()
    paddle.matmul(matrix, matrix)[0, 0].item()
    return time.perf_counter() - start
