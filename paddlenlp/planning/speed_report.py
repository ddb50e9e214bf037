"""The speed of a plan as text: what a step is made of, how long a training takes, and faster layouts; and as plain
values for JSON."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Sequence

from paddlenlp.utils.errors import UsageError

from .layout import Layout
from .report import gib, table
from .search import Found
from .speed import StepTime

MEANINGS = {
    "products": "products with matrices",
    "attention": "scores and weighted sums",
    "memory": "what only moves memory",
    "recompute": "computed again in the backward pass",
    "tensor": "exchanges of tensor-parallel ranks",
    "experts": "exchanges of ranks that share experts",
    "sequence": "exchanges of ranks that share sequences",
    "pipeline": "hidden states between pipeline ranks",
    "bubble": "waiting of pipeline ranks",
    "gradients": "exchanges of gradients",
    "parameters": "exchanges of parameters",
    "update": "update of the weights",
}
"""Part of a step -> what it is. Exchanges count as far as computing does not hide them."""

SUFFIXES = {"K": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


def amount(text: str) -> float:
    """A number of tokens: 300000, 1.4T, 500B, 20M.

    Raises:
        UsageError: it is none.
    """
    digits, factor = (text[:-1], SUFFIXES[text[-1].upper()]) if text[-1:].upper() in SUFFIXES else (text, 1.0)
    try:
        number = float(digits) * factor
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise UsageError(f"--tokens {text!r} is not a number of tokens: write such as 300000, 20M, 500B or 1.4T")
    return number


def speed_table(time: StepTime) -> str:
    """The parts of a step, the largest first."""
    parts = sorted(((seconds, name) for name, seconds in time.parts.items() if seconds), reverse=True)
    rows = [["a step", "seconds", "share"]]
    rows += [[MEANINGS[name], f"{seconds:.3f}", f"{seconds / time.seconds:.1%}"] for seconds, name in parts]
    return table([*rows, ["all", f"{time.seconds:.3f}", ""]])


def speed_line(time: StepTime) -> str:
    """Tokens a second, operations a second, and the MFU with its convention."""
    return (
        f"Speed: {time.tokens_per_second:,.0f} tokens/s a device, {time.tokens_per_second * time.devices:,.0f} in all; "
        f"a step of {time.tokens:,} tokens takes {time.seconds:.2f} s. {time.tflops:.0f} TFLOP/s a device, "
        f"MFU {time.mfu:.1%} of {time.peak / 1e12:.0f} (6 N + 12 L h d s operations a token: all scores, recomputing "
        "not counted)."
    )


def training_line(time: StepTime, tokens: float, price: Optional[float]) -> str:
    """Days and cost to so many tokens."""
    told = f"{tokens:.3g} tokens: {time.days(tokens):,.1f} days on {time.devices} devices, without failures and pauses"
    return told + ("." if price is None else f"; {time.cost(tokens, price):,.0f} at {price:g} for a device and hour.")


def best_table(found: Sequence[Found], seconds: float, asked: Layout) -> str:
    """Layouts of a search, against a step of so many seconds; and the flags that turn what was asked for into each."""
    rows = [["", "fastest layouts that fit", "tokens/s", "MFU", "bubble", "needs GiB", "time of a step"]]
    for number, one in enumerate(found, 1):
        time, change = one.time, f"{one.time.seconds / seconds - 1:+.0%}"
        speeds = [f"{time.tokens_per_second:,.0f}", f"{time.mfu:.1%}", f"{time.bubble:.1%}", gib(one.bytes), change]
        rows.append([str(number), str(one.layout), *speeds])
    changes = [f"{number}  {flags(one.layout, asked) or 'as asked for'}" for number, one in enumerate(found, 1)]
    return "\n".join([table(rows), "", *changes])


def flags(layout: Layout, asked: Layout) -> str:
    """The arguments of llm/run_pretrain.py that turn one layout into another."""
    before = _words(asked)
    return " ".join(f"--{name} {value}" for name, value in _words(layout).items() if value != before[name])


def _words(layout: Layout) -> Dict[str, Any]:
    mesh = layout.mesh
    return {
        "tensor_parallel_degree": mesh.tp,
        "sequence_parallel": str(layout.sequence_parallel).lower(),
        "pipeline_parallel_degree": mesh.pp,
        "virtual_pp_degree": layout.chunks,
        "sharding": f"stage{layout.stage}" if layout.stage else '""',
        "sharding_parallel_degree": mesh.sharding if layout.stage else -1,
        "context_parallel_degree": mesh.cp,
        "sep_parallel_degree": mesh.sep,
        "expert_parallel_degree": mesh.ep,
        "per_device_train_batch_size": layout.micro_batch,
        "gradient_accumulation_steps": layout.accumulation,
        "recompute": str(layout.recompute is not None).lower(),
        "recompute_granularity": layout.recompute or "full",
    }


def as_values(
    time: StepTime, asked: Layout, tokens: Optional[float], price: Optional[float], found: Optional[Sequence[Found]]
) -> Dict[str, Any]:
    """The same for JSON."""
    values: Dict[str, Any] = {
        "seconds_per_step": time.seconds,
        "tokens_per_step": time.tokens,
        "tokens_per_second_per_device": time.tokens_per_second,
        "tflops_per_device": time.tflops,
        "mfu": time.mfu,
        "bubble": time.bubble,
        "seconds_of_parts": dict(time.parts),
        "fastest": [_found(one, asked) for one in found or ()],
    }
    if tokens is not None:
        values["days"] = time.days(tokens)
        values["cost"] = None if price is None else time.cost(tokens, price)
    return values


def _found(one: Found, asked: Layout) -> Dict[str, Any]:
    time = one.time
    return {
        "layout": str(one.layout),
        "flags": flags(one.layout, asked),
        "needed_bytes": round(one.bytes),
        "seconds_per_step": time.seconds,
        "tokens_per_second_per_device": time.tokens_per_second,
        "mfu": time.mfu,
    }


def paragraphs(
    time: StepTime, asked: Layout, tokens: Optional[float], price: Optional[float], found: Optional[Sequence[Found]]
) -> List[str]:
    """All of it for the terminal. `found` is None where nothing was searched for."""
    told = [speed_table(time), speed_line(time)]
    told += [] if tokens is None else [training_line(time, tokens, price)]
    return told + ([] if found is None else [best_table(found, time.seconds, asked)])
