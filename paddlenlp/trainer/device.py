"""Settles the device: what was asked for against what Paddle can use."""

from __future__ import annotations

from typing import Mapping, Tuple

from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

from .training_args import TrainingArguments


def resolve_device(args: TrainingArguments, origins: Mapping[str, str]) -> str:
    """The device to run on, as `paddle.set_device` takes it. Imports Paddle unless the CPU was asked for.

    The default device gives way to the CPU where there is no GPU, and the log says so; one the user wrote does not.

    Args:
        args: reads `device` and `no_cuda`.
        origins: `parser.origins`: tells a default from what the user wrote.

    Raises:
        UsageError: the GPU the user asked for is not there.
    """
    if args.place == "cpu":
        return "cpu"
    device = args.device or "gpu"
    count, reason = _gpus()
    if int(device.partition(":")[2] or 0) < count:
        return device
    origin = origins.get("device", "default")
    if origin == "default":
        logger.info(f"Running on the CPU: {reason}.")
        return "cpu"
    found = reason if count == 0 else f"there are {count} GPUs, numbered from 0"
    raise UsageError(f'{origin}: device "{device}" cannot be used: {found}; set device to "cpu"')


def _gpus() -> Tuple[int, str]:
    """(number of usable GPUs, why there are none)."""
    import paddle

    if not paddle.is_compiled_with_cuda():
        return 0, "the installed Paddle is built without CUDA"
    return paddle.device.cuda.device_count(), "Paddle sees no GPU on this machine"
