"""What a run will take: the plan of its memory and speed, for the device it has or is to have, in a few lines."""

from __future__ import annotations

import re
from typing import Any, List, NamedTuple, Optional

from paddlenlp.doctor.devices import cards
from paddlenlp.utils.errors import UsageError

GIB = 1 << 30


class Forecast(NamedTuple):
    """What is known beforehand.

    Attributes:
        memory: of the rank that needs most, a `planning.memory.RankMemory`.
        own: the same of this rank.
        time: of a step, a `planning.speed.StepTime`; None where the device is not known.
        hardware: the device, a `planning.hardware.Hardware`; None where it is not known.
    """

    memory: Any
    own: Any
    time: Any
    hardware: Any

    @property
    def fits(self) -> Optional[bool]:
        """Whether the memory is enough; None where the device is not known."""
        return None if self.hardware is None else self.memory.needed <= self.hardware.memory_gib * GIB

    def lines(self) -> List[str]:
        """For the log."""
        peak, needed = self.memory.peak, size_text(self.memory.needed)
        found = [f"Plan: {needed} of memory for each process, most of it for {_greatest(peak.bytes)}"]
        if self.hardware is not None:
            verdict = "fits" if self.fits else "does not fit"
            found[0] += f"; {verdict} into the {self.hardware.memory_gib:.1f} GiB of {self.hardware.name}"
        found.append(f"Plan: the peak is at: {peak.when}")
        if self.time is not None:
            speed, mfu = self.time.tokens_per_second, self.time.mfu
            found.append(
                f"Plan: {speed:,.0f} tokens/s for each device (MFU {mfu:.1%}), {self.time.seconds:.2f} s for a step"
            )
        return found


def forecast(config: Any, args: Any, seq_length: int, hardware: Any = None, device: str = "gpu") -> Forecast:
    """The plan of a run.

    Args:
        config: of the model.
        args: TrainingArguments.
        seq_length: tokens of a sample.
        hardware: see `device_here` and `device_named`; None: memory only.
        device: "gpu" or "cpu", which differ in what operations keep.

    Raises:
        UsageError: the model can't be cut so.
    """
    from paddlenlp.planning.abstract import abstract_model
    from paddlenlp.planning.layout import Layout
    from paddlenlp.planning.memory import fullest, plan_memory
    from paddlenlp.planning.speed import step_time
    from paddlenlp.planning.work import model_work

    layout = Layout.from_args(args, seq_length)
    ranks = plan_memory(abstract_model(config), layout, device)
    time = None if hardware is None else step_time(model_work(config), layout, hardware)
    own = ranks[args.mesh.place(args.process_index)["pp"]]
    return Forecast(fullest(ranks), own, time, hardware)


def device_named(name: str) -> Any:
    """An entry of the table of devices, or this machine's CPU.

    Raises:
        UsageError: there is no such entry.
    """
    from paddlenlp.planning.hardware import hardware

    return hardware(name)


def device_here(place: str) -> Any:
    """The entry of the device that this process has, `place` being "cpu" or "gpu"; None where it is not known."""
    if place == "cpu":
        return device_named("cpu")
    try:
        seen = cards()
    except OSError:
        return None
    return device_like(seen[0].name, seen[0].memory / 1024) if seen else None


def device_like(name: str, memory_gib: float) -> Any:
    """The entry of the table whose words are all in a device's name and whose memory is about as large, or None."""
    from paddlenlp.planning.hardware import hardware_names

    words = set(_words(name))
    for entry in map(device_named, hardware_names()):
        model = next(word for word in _words(entry.name) if any(char.isdigit() for char in word))
        if model in words and abs(entry.memory_gib - memory_gib) < 0.1 * memory_gib:
            return entry
    return None


def require_fit(found: Forecast) -> None:
    """Refuse a run that the plan says will end for lack of memory.

    Raises:
        UsageError: it does not fit.
    """
    if found.fits is False:
        more = found.memory.needed / GIB - found.hardware.memory_gib
        raise UsageError(
            f"The run needs {found.memory.needed / GIB:.1f} GiB of memory for each process, {more:.1f} more than "
            f"{found.hardware.name} has ({found.hardware.memory_gib:.1f}). Lower per_device_train_batch_size (or let "
            "auto_micro_batch choose it), set recompute, or raise a degree of parallelism; llm/tools/plan.py names the "
            "nearest configurations that fit."
        )


def size_text(size: float) -> str:
    """Bytes in words: "51.20 GiB", "3.1 MiB"."""
    return f"{size / GIB:.2f} GiB" if size >= GIB / 10 else f"{size / (1 << 20):.1f} MiB"


def _words(name: str) -> List[str]:
    return re.split(r"[\s-]+", name)


def _greatest(sizes: Any) -> str:
    """The two kinds of memory that take most."""
    greatest = sorted(sizes.items(), key=lambda item: -item[1])[:2]
    return " and ".join(f"{kind} ({size_text(size)})" for kind, size in greatest)
