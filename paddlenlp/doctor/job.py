"""The processes of a job together: do their clocks agree, do sums over all of them come out right, how fast.

Every rank calls these functions, in the same order; all get the same findings.
"""

from __future__ import annotations

import time
from typing import Any, List, Optional, Sequence

from paddlenlp.parallel.group import Group
from paddlenlp.parallel.objects import everyones

from .finding import FAIL, OK, WARN, Finding

ROUNDS = 5
SKEW_WARNS, SKEW_FAILS = 1.0, 300.0
"""Seconds: from the first on logs of several hosts can't be compared; from the second on certificates are refused."""

DTYPES = ("float32", "bfloat16", "float16", "int64")
VALUES = 1 << 12
"""Elements of a sum that is compared with what it must be, beside a large one that is timed."""

FEW = 2
"""Ranks that add to an element of it: few, so that bfloat16 holds the sum of a large job exactly."""

LARGE = 32 << 20
SLOW = 1e8
"""Bytes; and bytes a second, the speed of an ordinary 1 Gbit/s network."""


def clocks(group: Group, names: Sequence[str]) -> Finding:
    """How far the clocks of the hosts are apart.

    All ranks read their clock as they leave a barrier; of some rounds the one counts in which a rank was closest to the
    first, as it may leave late.

    Args:
        names: host of each rank.
    """
    apart: List[float] = []
    for _ in range(ROUNDS):
        group.barrier()
        times = everyones(time.time(), group)
        offsets = [seconds - times[0] for seconds in times]
        apart = [min(pair, key=abs) for pair in zip(apart, offsets)] if apart else offsets
    worst = max(range(group.size), key=lambda rank: abs(apart[rank]))
    seconds = abs(apart[worst])
    text = f"within {max(seconds, 0.001):.3f} s of the first rank's"
    if seconds < SKEW_WARNS:
        return Finding("clocks", OK, text)
    text = f"that of {names[worst]} is {seconds:.1f} s {'ahead' if apart[worst] > 0 else 'behind'}"
    state = FAIL if seconds >= SKEW_FAILS else WARN
    return Finding("clocks", state, text, f"Have {names[worst]} and {names[0]} take their time from one server (NTP).")


def sums(group: Group, names: Sequence[str]) -> List[Finding]:
    """An all-reduce over all ranks in several types, compared with what it must give; and its speed."""
    wrong = [text for dtype in DTYPES for text in everyones(_wrong(group, dtype), group) if text]
    advice = "No sum over these ranks can be trusted: don't train. Try fewer hosts to find which one it is."
    if wrong:
        return [Finding("all-reduce", FAIL, "; ".join(wrong[:3]), advice)]
    found = Finding("all-reduce", OK, f"right in {', '.join(DTYPES)} over {group.size} ranks")
    return [found, _speed(group, names)]


def _wrong(group: Group, dtype: str) -> Optional[str]:
    """What this rank finds wrong with a sum; None if nothing. Each rank adds to some elements, to which others too."""
    import numpy as np

    places, few = np.arange(VALUES), min(group.size, FEW)
    own = ((places + group.rank) % group.size < few) * (1 + places % 5)
    expected = few * (1 + places % 5)
    got = group.all_reduce(_tensor(own, dtype, group)).wait()
    values = got.astype("float32").cpu().numpy()
    differing = np.flatnonzero(values != expected)
    if not differing.size:
        return None
    first = int(differing[0])
    return (
        f"rank {group.ranks[group.rank]}, {dtype}: element {first} of the sum is {values[first]:g}, expected "
        f"{expected[first]:g} ({differing.size} of {VALUES} are wrong)"
    )


def _speed(group: Group, names: Sequence[str]) -> Finding:
    """Bytes that a rank sends, and receives, in a second: 2 (n - 1) / n of the tensor's."""
    import numpy as np

    tensor = _tensor(np.zeros(LARGE // 4), "float32", group)
    seconds = []
    for _ in range(3):
        group.barrier()
        start = time.perf_counter()
        group.all_reduce(tensor).wait()
        _finish(tensor)
        seconds.append(time.perf_counter() - start)
    slowest = max(everyones(min(seconds), group))
    rate = LARGE * 2 * (group.size - 1) / group.size / slowest
    text = f"{LARGE >> 20} MiB in {slowest * 1e3:.1f} ms: {rate / 1e9:.2f} GB/s each way for each rank"
    if rate < SLOW and len(set(names)) > 1:
        advice = "Slower than 1 Gbit/s: have the fast network used (NCCL_SOCKET_IFNAME, NCCL_IB_HCA)."
        return Finding("exchange speed", WARN, text, advice)
    return Finding("exchange speed", OK, text)


def _tensor(values: Any, dtype: Any, group: Group) -> Any:
    import paddle

    return paddle.to_tensor(values, dtype="float32", place=group.device).astype(dtype)


def _finish(tensor: Any) -> None:
    """Wait for the device."""
    tensor[:1].cpu().numpy()
