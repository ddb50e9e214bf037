"""The launchers of external_ops (csrc/cuda/launchers.h) through ctypes, with device memory: no Paddle, no framework."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any, Dict, List, Sequence

import numpy as np
from floats import STORED, TYPES, decode

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SOURCES = ROOT / "slm/model_zoo/gpt-3/external_ops/csrc/cuda"
EMULATOR = ROOT / "tests/external_ops/cuda/emulator"

NVCC_FLAGS = ["-std=c++17", "-O3", "-Werror", "all-warnings", "-Xcompiler", "-Wall,-Wextra,-Werror"]
# The emulator's fibers jump between stacks, which the checks of _FORTIFY_SOURCE take for an error.
GXX_FLAGS = [
    *("-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-U_FORTIFY_SOURCE", "-fPIC"),
    *("-fsanitize=alignment,bounds", "-fno-sanitize-recover=all"),
]


def nvcc_command(out: Path, architectures: Sequence[str], nvcc: str = "nvcc") -> List[str]:
    """Compiles kernels and harness into the shared library `out` for GPUs such as "sm_80", or the "native" one."""
    codes = [f"-gencode=arch=compute_{name[3:]},code={name}" for name in architectures if name != "native"]
    return [
        nvcc,
        *NVCC_FLAGS,
        *(codes or ["-arch=native"]),
        "--threads=2",
        "-Xcompiler",
        "-fPIC",
        f"-I{SOURCES}",
        "-shared",
        *map(str, _inputs()),
        "-o",
        str(out),
    ]


def emulator_command(out: Path, source: Path) -> List[str]:
    """Compiles one source for the emulator on a CPU into the object `out`."""
    return ["g++", *GXX_FLAGS, f"-I{EMULATOR}", f"-I{SOURCES}", "-x", "c++", "-c", str(source), "-o", str(out)]


def build(folder: Path, architectures: Sequence[str] = ("native",), nvcc: str = "nvcc") -> Path:
    """The library for the GPU at hand, made in `folder`."""
    out = folder / "libkernels.so"
    subprocess.run(nvcc_command(out, architectures, nvcc), check=True)
    return out


def build_emulated(folder: Path, jobs: int = 2) -> Path:
    """The same kernels for the emulator on a CPU, made in `folder`, `jobs` files at once."""
    sources = [*_inputs(), EMULATOR / "emulator.cc"]
    objects = [folder / f"{source.stem}.o" for source in sources]
    waiting, running = list(zip(objects, sources)), []  # type: ignore[var-annotated]
    while waiting or running:
        while waiting and len(running) < jobs:
            running.append(subprocess.Popen(emulator_command(*waiting.pop(0))))
        if running.pop(0).wait():
            raise RuntimeError("g++ could not compile the kernels for the emulator")
    out = folder / "libemulated.so"
    subprocess.run(["g++", "-shared", *GXX_FLAGS, *map(str, objects), "-o", str(out)], check=True)
    return out


def _inputs() -> List[Path]:
    return [*sorted(SOURCES.glob("*.cu")), HERE / "harness.cu"]


class Buffer:
    """A tensor in device memory.

    Args:
        library: where its memory is.
        stored: what it holds, as `floats.encode` makes it.
        dtype: its type, a name of `floats.STORED`.
        shift: elements by which it starts after a multiple of 256 bytes.
    """

    def __init__(self, library: Library, stored: np.ndarray, dtype: str, shift: int = 0) -> None:
        self._library, self.dtype, self.shape = library, dtype, stored.shape
        stored = np.ascontiguousarray(stored, STORED[dtype])
        offset = shift * stored.itemsize
        self._memory = library.allocate(offset + max(stored.nbytes, 1))
        self.address = self._memory + offset
        library.call("harness_write", self.address, _pointer(stored), stored.nbytes)

    def read(self) -> np.ndarray:
        """As it is stored."""
        stored = np.empty(self.shape, STORED[self.dtype])
        self._library.call("harness_read", _pointer(stored), self.address, stored.nbytes)
        return stored

    def values(self) -> np.ndarray:
        """As float64."""
        return decode(self.read(), self.dtype)

    def free(self) -> None:
        self._library.call("harness_free", self._memory)


class Library:
    """What `build` or `build_emulated` made."""

    def __init__(self, path: Path) -> None:
        self._functions = ctypes.CDLL(str(path))
        self._functions.harness_error.restype = ctypes.c_char_p
        for name in ("norm_grad_workspace", "squared_norm_workspace"):
            getattr(self._functions, name).restype = ctypes.c_size_t

    def call(self, name: str, *arguments: Any) -> int:
        """A function by its name: buffers, integers, floats, type names and None as they come.

        Raises:
            RuntimeError: it returned an error.
        """
        given = [_argument(x) for x in arguments]
        error = getattr(self._functions, name)(*given)
        if error:
            raise RuntimeError(f"{name} returned CUDA error {error}: {self._functions.harness_error(error).decode()}")
        return 0

    def size(self, name: str, *arguments: Any) -> int:
        """The bytes that one of the functions `*_workspace` answers."""
        return getattr(self._functions, name)(*[_argument(x) for x in arguments])

    def allocate(self, size: int) -> int:
        """The address of new device memory."""
        memory = ctypes.c_void_p()
        self.call("harness_allocate", ctypes.addressof(memory), size)
        assert memory.value is not None
        return memory.value

    def workspace(self, size: int) -> Buffer:
        return Buffer(self, np.full(max(size // 4, 1), np.nan, np.float32), "float32")

    def device(self) -> Dict[str, Any]:
        """What the device says of itself."""
        name, numbers = ctypes.create_string_buffer(256), (ctypes.c_int * 4)()
        self.call("harness_device", ctypes.addressof(name), 256, ctypes.addressof(numbers))
        major, minor, processors, memory = numbers
        return {
            "name": name.value.decode(),
            "compute_capability": f"{major}.{minor}",
            "multiprocessors": processors,
            "memory_mib": memory,
        }

    def milliseconds(self, name: str, arguments: Sequence[Any], calls: int) -> float:
        """Of one call of a function, from `calls` in a row on the device's own clock."""
        function, given = getattr(self._functions, name), [_argument(x) for x in arguments]
        elapsed = ctypes.c_float()
        self.call("harness_start")
        errors = [function(*given) for _ in range(calls)]
        self.call("harness_stop", ctypes.addressof(elapsed))
        if any(errors):
            raise RuntimeError(f"{name} returned CUDA error {max(errors)}")
        return elapsed.value / calls

    def emulate_reversed(self, yes: bool) -> None:
        """Only in the emulator: run threads and blocks from the last to the first."""
        self._functions.emulator_set_reversed(int(yes))


def _argument(x: Any) -> Any:
    """Integers may be addresses, and are as wide; sizes and flags fit in the same registers."""
    if isinstance(x, Buffer):
        return ctypes.c_void_p(x.address)
    if isinstance(x, str):
        return ctypes.c_int(TYPES.index(x))
    if isinstance(x, float):
        return ctypes.c_float(x)
    return x if x is None else ctypes.c_int64(x)


def _pointer(array: np.ndarray) -> int:
    return array.ctypes.data
