"""Loads the library of operations into Paddle, once in a process."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import paddle
from paddle.base import core


def _load() -> str:
    """The library is named after the Paddle that it was built for: another one could crash with it."""
    folder, version = Path(__file__).resolve().parent, paddle.version
    path = folder / f"paddle_{version.full_version}_{version.commit[:8]}.so"
    if not path.is_file():
        others = ", ".join(sorted(file.stem for file in folder.glob("*.so"))) or "nothing"
        raise ImportError(
            f"external_ops is not built for this Paddle: expected {path.name} in {folder}, found {others}. "
            "Build it again: python3 setup.py install in slm/model_zoo/gpt-3/external_ops"
        )
    core.load_op_meta_info_and_register_op(str(path))
    return str(path)


PATH = _load()


def _instruction_set() -> str:
    function = ctypes.CDLL(PATH).fused_ops_isa
    function.restype = ctypes.c_char_p
    return str(function().decode())


ISA = _instruction_set()
"""The instruction set that the CPU operations use here: avx512, avx2 or base. FUSED_OPS_ISA names a lesser one."""


def run(name: str, *arguments: Any) -> Any:
    """The outputs of a custom operation: a list, or a tensor if there is one."""
    outputs = paddle._C_ops._run_custom_op(name, *arguments)
    return outputs[0] if len(outputs) == 1 else outputs
