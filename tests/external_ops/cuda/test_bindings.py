"""The bindings of the CUDA kernels (csrc/paddle/gpu.h), run on the CPU: the emulator, and a stand-in for Paddle."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "benchmarks/cuda"))

import cases  # noqa: E402
import checking  # noqa: E402
import floats  # noqa: E402
import library  # noqa: E402

FAKE = Path(__file__).resolve().parent / "fake_paddle"
TYPES = [*floats.TYPES, "int64"]

Stored = Tuple[np.ndarray, str]


class Bindings:
    """The functions of fake_paddle/bindings.cc."""

    def __init__(self, path: Path) -> None:
        self._lib = ctypes.CDLL(str(path))
        self._lib.new_tensor.restype = ctypes.c_void_p
        self._lib.binding_error.restype = ctypes.c_char_p

    def __call__(self, name: str, inputs: Sequence[Optional[Stored]], numbers: Sequence[float], device: int = 0) -> Any:
        """The results of a binding, as (stored, type); for an error its message."""
        given = (ctypes.c_void_p * len(inputs))(*[None if x is None else self._tensor(*x, device) for x in inputs])
        found = (ctypes.c_void_p * 8)()
        values = (ctypes.c_double * 8)(*numbers)
        count = self._lib.run_binding(name.encode(), given, len(inputs), values, found)
        answer = self._lib.binding_error().decode() if count < 0 else [self._read(found[i]) for i in range(count)]
        for tensor in (*given, *found[: max(count, 0)]):
            self._lib.free_tensor(ctypes.c_void_p(tensor))
        return answer

    def _tensor(self, stored: np.ndarray, dtype: str, device: int) -> Any:
        stored = np.ascontiguousarray(stored)
        shape = (ctypes.c_int64 * max(1, stored.ndim))(*stored.shape)
        data = ctypes.c_void_p(stored.ctypes.data)
        return self._lib.new_tensor(data, TYPES.index(dtype), stored.ndim, shape, device)

    def _read(self, tensor: int) -> Stored:
        shape, data = (ctypes.c_int64 * 8)(*[-1] * 8), ctypes.create_string_buffer(1 << 16)
        dtype = TYPES[self._lib.read_tensor(ctypes.c_void_p(tensor), shape, data)]
        sizes = [size for size in shape if size >= 0]
        return np.frombuffer(data, floats.STORED[dtype], int(np.prod(sizes))).reshape(sizes).copy(), dtype


@pytest.fixture(scope="module")
def bindings(emulated: Path, tmp_path_factory: pytest.TempPathFactory) -> Bindings:
    folder = tmp_path_factory.mktemp("bindings")
    own, out = folder / "bindings.o", folder / "libbindings.so"
    command = library.emulator_command(own, FAKE / "bindings.cc")
    subprocess.run([*command, f"-I{FAKE}", f"-I{library.SOURCES.parent / 'paddle'}"], check=True)
    objects = map(str, (own, *emulated.parent.glob("*.o")))
    subprocess.run(["g++", "-shared", *library.GXX_FLAGS, *objects, "-o", str(out)], check=True)
    return Bindings(out)


INPUTS = {
    "rms_norm": "x scale",
    "rms_norm_grad": "x scale invvar dy",
    "add_rms_norm": "x residual scale",
    "add_rms_norm_grad": "x scale invvar dy dsum",
    "layer_norm": "x scale bias",
    "layer_norm_grad": "x scale mean invvar dy",
    "rope": "x cos sin",
    "swiglu": "gate up",
    "swiglu_grad": "gate up dy",
    "cross_entropy_parts": "logits labels",
    "cross_entropy_slopes": "logits labels log_sum scale",
    "embedding_grad": "ids grad",
    "adamw": "weight moment1 moment2 gradient",
    "squared_norm": "x",
}
"""Binding -> the tensors it takes, by their names in cases.py, in order."""

OUTPUTS = {
    "add_rms_norm": "y sum invvar",
    "add_rms_norm_grad": "dx dresidual dscale",
    "layer_norm": "y mean invvar",
    "adamw": "weight moment1 moment2",
}
"""Binding -> the results it gives, where the order is another one than in cases.py."""


def calls() -> List[Tuple[str, cases.Case, List[float]]]:
    draw, made, epsilon = cases.Draw(), [], [cases.EPSILON]  # type: ignore[var-annotated]
    for pair in (("float32", "float32"), ("float32", "bfloat16"), ("float16", "float16")):
        made.append(("rms_norm", cases.norm(draw, 3, 64, pair, False), epsilon))
        made.append(("rms_norm_grad", cases.norm_grad(draw, 3, 64, pair, False), []))
        made.append(("add_rms_norm", cases.norm(draw, 3, 64, pair, False, True), epsilon))
        made.append(("add_rms_norm_grad", cases.norm_grad(draw, 3, 64, pair, False, True), []))
        made.append(("layer_norm", cases.norm(draw, 3, 65, pair, True), epsilon))
        made.append(("layer_norm_grad", cases.norm_grad(draw, 3, 65, pair, True), []))
    for dtype in ("float32", "bfloat16"):
        made.append(("rope", cases.rope(draw, (2, 3, 5, 8), dtype, False, False, 2), [0, 1]))
        made.append(("rope", cases.rope(draw, (2, 3, 5, 8), dtype, True, True), [1, -1]))
        made.append(("swiglu", cases.swiglu(draw, 100, dtype), []))
        made.append(("swiglu_grad", cases.swiglu_grad(draw, 100, dtype), []))
        made.append(("cross_entropy_parts", cases.cross_entropy_parts(draw, 8, 33, dtype), [33]))
        made += [
            ("cross_entropy_slopes", cases.cross_entropy_slopes(draw, 8, 33, dtype, x), [33]) for x in (False, True)
        ]
        made.append(("embedding_grad", cases.embedding_grad(draw, 20, 7, 16, dtype), [7]))
        made.append(
            ("adamw", cases.adamw(draw, 100, dtype), [3e-3, 0.9, 0.95, 1e-8, 0.1, 1 - 0.9**3, 1 - 0.95**3, 0.7])
        )
        made.append(("squared_norm", cases.squared_norm(draw, 1000, dtype), []))
    return made


@pytest.mark.parametrize("name", INPUTS)
def test_a_binding_gives_what_its_kernel_does(bindings: Bindings, name: str) -> None:
    found = [(case, numbers) for kind, case, numbers in calls() if kind == name]
    assert found
    for case, numbers in found:
        answer = bindings(name, [case.inputs[x] for x in INPUTS[name].split()], numbers)
        names = OUTPUTS[name].split() if name in OUTPUTS else list(case.results)
        assert isinstance(answer, list) and len(answer) == len(names), answer
        results: Dict[str, np.ndarray] = {}
        for result, (stored, dtype) in zip(names, answer):
            assert (stored.shape, dtype) == case.results[result], f"{case}: {result}"
            results[result] = stored
        errors = checking.errors(case, results, checking.expected(case))
        assert max(errors.values()) <= 1, f"{case}: {errors}"


def test_gradients_that_nobody_asked_for(bindings: Bindings) -> None:
    """Only `sum` was used, or only `y`."""
    pair = ("float32", "bfloat16")
    case = cases.norm_grad(cases.Draw(), 3, 64, pair, False, True)
    inputs: List[Optional[Stored]] = [case.inputs[x] for x in INPUTS["add_rms_norm_grad"].split()]
    only_sum = bindings("add_rms_norm_grad", [*inputs[:3], None, inputs[4]], [])
    assert np.array_equal(only_sum[0][0], case.inputs["dsum"][0]) and not only_sum[2][0].any()
    only_y = bindings("add_rms_norm_grad", [*inputs[:4], None], [])
    plain = bindings("rms_norm_grad", inputs[:4], [])
    assert np.array_equal(only_y[0][0], plain[0][0]) and np.array_equal(only_y[2][0], plain[1][0])


def test_what_does_not_fit_is_said(bindings: Bindings) -> None:
    draw = cases.Draw()
    x, half = draw.normal((3, 8), "float32"), draw.normal((3, 8), "float16")
    scale, short = draw.normal((8,), "float32"), draw.normal((7,), "float32")
    assert "scale has shape [7]; expected [8]" in bindings("rms_norm", [x, short], [1e-5])
    assert "expected the same type, or a float32 x" in bindings("rms_norm", [half, scale], [1e-5])
    assert "residual is type 1 [3, 8]; expected type 0" in bindings("add_rms_norm", [x, half, scale], [1e-5])
    assert "is on cpu" in bindings("rms_norm", [x, scale], [1e-5], device=-1)
    labels = draw.integers((3,), 0, 8)
    two = draw.normal((2,), "float32")
    message = bindings("cross_entropy_slopes", [x, labels, draw.normal((3,), "float32"), two], [0])
    assert "scale has shape [2]; expected [1] or [3]" in message
