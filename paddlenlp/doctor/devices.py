"""GPUs, their driver and NCCL; the fused operations; whether products come out right."""

from __future__ import annotations

import shutil
import subprocess
from typing import Any, List, NamedTuple, Optional

from .finding import FAIL, OK, WARN, Finding

_QUERY = ["--query-gpu=name,driver_version,memory.total,memory.used", "--format=csv,noheader,nounits"]
_SECONDS = 20
BUILD = "cd slm/model_zoo/gpt-3/external_ops && python setup.py install"
IN_USE = 0.1
"""Share of a GPU's memory beyond which somebody else is on it."""

WRONG = 1e-4
"""Relative error of a float32 product that no device makes (TF32, if a driver turned it on, makes 1e-3)."""


class Card(NamedTuple):
    """A GPU as its driver describes it; memory in MiB."""

    name: str
    driver: str
    memory: int
    used: int


def cards() -> Optional[List[Card]]:
    """Those that nvidia-smi lists; None where there is no NVIDIA driver.

    Raises:
        OSError: the driver does not answer.
    """
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    done = subprocess.run([program, *_QUERY], capture_output=True, text=True, timeout=_SECONDS, check=False)
    if done.returncode:
        raise OSError((done.stderr or done.stdout).strip()[:200])
    rows = [[word.strip() for word in line.split(",")] for line in done.stdout.splitlines() if line.strip()]
    return [Card(name, driver, int(total), int(used)) for name, driver, total, used in rows]


def gpus(asked: str) -> List[Finding]:
    """GPUs, driver, and whether this Paddle can use them.

    Args:
        asked: device of the run: "cpu", "gpu" or "gpu:N".
    """
    import paddle

    try:
        seen = cards()
    except (OSError, subprocess.SubprocessError) as error:
        advice = "The driver does not answer: see dmesg (Xid errors), and restart the machine if need be."
        return [Finding("GPUs", FAIL, f"nvidia-smi: {error}", advice)]
    built = paddle.is_compiled_with_cuda()
    usable = paddle.device.cuda.device_count() if built else 0
    wanted = asked.startswith("gpu:") or (asked == "gpu" and built)
    found = [_usable(seen, built, usable, wanted)]
    if seen:
        found.append(_occupied(seen))
    if usable:
        found.append(_libraries())
    return found


def _usable(seen: Optional[List[Card]], built: bool, usable: int, wanted: bool) -> Finding:
    if not seen:
        text = "none" if seen is not None else "no NVIDIA driver here"
        if wanted:
            return Finding(
                "GPUs", FAIL, f"{text}, and the run asks for them", "Set device to cpu, or use a GPU machine."
            )
        return Finding("GPUs", OK, f"{text}: runs on the CPU")
    text = f"{len(seen)} x {seen[0].name}, {seen[0].memory / 1024:.0f} GiB, driver {seen[0].driver}"
    if not built:
        advice = "Install Paddle's CUDA build in place of paddlepaddle; set device to cpu if the CPU is meant."
        return Finding("GPUs", FAIL if wanted else WARN, f"{text}, but this Paddle is built without CUDA", advice)
    if usable < len(seen):
        advice = "The driver may be too old for this build's CUDA, or CUDA_VISIBLE_DEVICES hides some."
        return Finding("GPUs", WARN if usable else FAIL, f"{text}; Paddle can use {usable}", advice)
    names = sorted({card.name for card in seen})
    if len(names) > 1:
        return Finding(
            "GPUs",
            WARN,
            f"different ones: {', '.join(names)}",
            "All wait for the slowest: choose equal ones (--devices).",
        )
    return Finding("GPUs", OK, text)


def _occupied(seen: List[Card]) -> Finding:
    busy = [str(number) for number, card in enumerate(seen) if card.used > IN_USE * card.memory]
    if busy:
        advice = "End the programs that nvidia-smi lists, or leave these GPUs out (--devices)."
        return Finding("GPU memory", WARN, f"in use on GPU {', '.join(busy)}", advice)
    return Finding("GPU memory", OK, "free")


def _libraries() -> Finding:
    """CUDA, cuDNN and NCCL of the build."""
    import paddle

    nccl = str(paddle.version.nccl())
    text = f"CUDA {paddle.version.cuda()}, cuDNN {paddle.version.cudnn()}, NCCL {nccl}"
    if nccl in ("0", "False", ""):
        advice = "Processes can't exchange on GPUs without NCCL: install one of Paddle's own CUDA builds."
        return Finding("CUDA libraries", FAIL, text, advice)
    return Finding("CUDA libraries", OK, text)


def product() -> Finding:
    """Whether a matrix product is right, and how fast products are."""
    import numpy as np
    import paddle

    from paddlenlp.trainer.peak import measured_tflops

    random = np.random.default_rng(0)
    a, b = (random.standard_normal((256, 256), np.float32) for _ in range(2))
    got = paddle.matmul(paddle.to_tensor(a), paddle.to_tensor(b)).numpy()
    error = float(np.abs(got - a.astype(np.float64) @ b).max() / 256**0.5)
    place = paddle.get_device()
    if not error < WRONG:
        advice = "This device computes wrongly: do not train on it. On a GPU see dmesg and run the maker's diagnosis."
        return Finding("products", FAIL, f"on {place}: relative error {error:.1e}", advice)
    return Finding("products", OK, f"on {place}: right, {measured_tflops('float32'):.2g} TFLOP/s in float32")


def fused_operations() -> List[Finding]:
    """What the kernel chooser says of the external operations, of each one that is built a line."""
    from paddlenlp.nn import kernels
    from paddlenlp.trainer import ModelArguments
    from paddlenlp.trainer.engine_args import FusedArguments

    kernels.configure(FusedArguments(), ModelArguments())
    states = kernels.states()
    modules = dict.fromkeys(state.module for state in states if not state.built)
    missing = f"not built: {', '.join(modules)} (optional, for speed); plain operations run instead"
    return [Finding("fused operations", OK, missing)] * bool(modules) + [operation(one) for one in states if one.built]


def operation(state: Any) -> Finding:
    """Of one that is built, a `kernels.State`: whether it loads, agrees with the plain one, and is used."""
    name = f"op {state.op}"
    if state.used:
        return Finding(name, OK, f"{state.module}: built, loads, agrees with the plain operation, used")
    if not state.loads or state.agrees is False:
        how = "does not load" if not state.loads else "gives other values than the plain operation"
        advice = f"The plain operation runs instead. Build it again for this Paddle and device: {BUILD}."
        return Finding(name, WARN, f"{state.module} {how}: {state.reason}", advice)
    return Finding(name, OK, f"{state.module} is built, not used: {state.reason}")
