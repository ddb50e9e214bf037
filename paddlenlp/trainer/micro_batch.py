"""The largest micro batch that fits: `auto_micro_batch`. The global batch stays exactly what the arguments say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, List, Optional, Tuple

from paddlenlp.doctor.devices import cards
from paddlenlp.parallel.mesh import divisors
from paddlenlp.trainer.forecast import size_text
from paddlenlp.trainer.rules import failures
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger
from paddlenlp.utils.machine import memory_of_host

MARGIN = 0.05
"""Of the free memory, left free: a plan is no measurement."""


def choose_micro_batch(args: Any, config: Any, data_args: Any) -> Any:
    """The arguments with the largest `per_device_train_batch_size` that fits the memory which is free on every rank.

    All ranks call this. `gradient_accumulation_steps` changes along, so that their product stays as it was; so the loss
    curve, the order of the data and the learning rate do too.

    Raises:
        UsageError: not even one sample fits.
    """
    if not args.auto_micro_batch:
        return args
    from paddlenlp.parallel.objects import everyones

    device, own = free_memory(args)
    known = [size for size in everyones(own) if size is not None]
    if len(known) < args.world_size:
        logger.warning("auto_micro_batch: the memory of this device can't be found out; nothing is changed.")
        return args
    free = min(known)
    (size, rounds), needed = largest(args, config, data_args.max_seq_length, free * (1 - MARGIN), device)
    before = f"{args.per_device_train_batch_size} x {args.gradient_accumulation_steps}"
    logger.info(
        f"auto_micro_batch: micro batch x accumulation = {size} x {rounds} (given: {before}), planned for "
        f"{size_text(needed)} of the {size_text(free)} that are free; the global batch stays {args.samples_per_step:,} "
        "samples."
    )
    return replace(args, per_device_train_batch_size=size, gradient_accumulation_steps=rounds)


def largest(args: Any, config: Any, seq_length: int, room: float, device: str) -> Tuple[Tuple[int, int], float]:
    """(micro batch, accumulation) and the bytes that it needs.

    Args:
        room: bytes that it may need.
        device: "gpu" or "cpu".

    Raises:
        UsageError: nothing fits.
    """
    from paddlenlp.planning.abstract import abstract_model
    from paddlenlp.planning.layout import Layout
    from paddlenlp.planning.memory import fullest, plan_memory

    layout, model = Layout.from_args(args, seq_length), abstract_model(config)
    least = 0.0
    for size, rounds in candidates(args):
        needed = fullest(plan_memory(model, layout.with_(micro_batch=size, accumulation=rounds), device)).needed
        if needed <= room:
            return (size, rounds), needed
        least = needed
    raise UsageError(
        f"auto_micro_batch: even a micro batch of {candidates(args)[-1][0]} needs {size_text(least)} for each process, "
        f"and {size_text(room)} can be used. Set recompute, or raise a degree of parallelism."
    )


def candidates(args: Any) -> List[Tuple[int, int]]:
    """(micro batch, accumulation) with the product that the arguments give, the largest micro batch first.

    Those that break a rule are left out; so are, if others remain, those with fewer rounds than the pipeline has
    stages, which would wait for each other at all times.
    """
    total = args.per_device_train_batch_size * args.gradient_accumulation_steps
    pairs = [(size, total // size) for size in reversed(divisors(total))]
    allowed = [pair for pair in pairs if not _breaks_a_rule(args, *pair)] or pairs
    return [pair for pair in allowed if pair[1] >= args.mesh.pp] or allowed


def _breaks_a_rule(args: Any, size: int, rounds: int) -> bool:
    made = replace(args, per_device_train_batch_size=size, gradient_accumulation_steps=rounds)
    return bool(failures([made], {}))


def free_memory(args: Any) -> Tuple[str, Optional[int]]:
    """The kind of device, "gpu" or "cpu", and the bytes of its memory that this process can have."""
    import paddle

    if paddle.get_device().startswith("gpu"):
        return "gpu", _free_on_card(int(paddle.get_device().partition(":")[2] or 0))
    memory = memory_of_host()
    return "cpu", None if memory is None else memory.available // args.local_world_size


def _free_on_card(number: int) -> Optional[int]:
    """Of the card that is Paddle's `number`: those of CUDA_VISIBLE_DEVICES, in its order."""
    import os

    try:
        seen = cards()
    except OSError:
        return None
    visible = [word for word in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if word.isdigit()]
    place = int(visible[number]) if number < len(visible) else number
    if seen is None or place >= len(seen):
        return None
    return (seen[place].memory - seen[place].used) << 20
