"""Who runs which part of a model, and in which order. Plain arithmetic: needs neither Paddle nor a topology.

A pipeline of `size` ranks deals a model out in size x chunks consecutive parts; chunk c of rank r is part c * size + r.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate
from typing import Callable, Dict, List, Literal, NamedTuple, Sequence, Tuple

from paddlenlp.utils.errors import UsageError


class Task(NamedTuple):
    """One pass of one micro batch through one chunk of this rank."""

    kind: Literal["forward", "backward"]
    chunk: int
    micro: int


def schedule(size: int, rank: int, micro_batches: int, chunks: int = 1) -> List[Task]:
    """The tasks of `rank` in order: one forward, one backward in turn (1F1B), after some forwards to fill the pipeline.

    With one chunk per rank (Narayanan et al., arXiv:2006.09503, PipeDream-Flush) at most `size - rank` micro batches
    are between their forward and backward pass, and the ranks are idle for (size - 1) / (micro_batches + size - 1) of
    the step. With more (interleaved: Narayanan et al., arXiv:2104.04473, section 2.2) each goes through `size` micro
    batches before the next has its turn; the idle time is 1 / chunks of it, and `chunks` times as much is sent.

    Raises:
        UsageError: several chunks, and the micro batches are not a multiple of `size`.
    """
    if chunks > 1 and micro_batches % size:
        raise UsageError(
            f"virtual_pp_degree={chunks} runs micro batches in groups of pipeline_parallel_degree={size}; a step has "
            f"{micro_batches}. Set gradient_accumulation_steps to a multiple of {size}, or virtual_pp_degree to 1"
        )
    total, behind = micro_batches * chunks, size - rank - 1
    filling = min(total, behind if chunks == 1 else 2 * behind + (chunks - 1) * size)
    forwards = [_task("forward", number, size, chunks) for number in range(total)]
    backwards = [_task("backward", number, size, chunks) for number in range(total)]
    paired = [task for pair in zip(forwards[filling:], backwards) for task in pair]
    return forwards[:filling] + paired + backwards[total - filling :]


def _task(kind: Literal["forward", "backward"], number: int, size: int, chunks: int) -> Task:
    """Pass `number` of its kind: `size` micro batches through one chunk, the same through the next, and so on."""
    turn, place = divmod(number, size * chunks)
    chunk, micro = divmod(place, size)
    return Task(kind, chunk if kind == "forward" else chunks - 1 - chunk, turn * size + micro)


def deal(costs: Sequence[float], layers: Sequence[bool], parts: int) -> List[range]:
    """Deal a model's stages out to `parts` consecutive runs, each with at least one decoder layer: what stands before
    the first goes with it, and what follows a layer goes with that one.

    Args:
        costs: of the stages in order, as for `share`.
        layers: which of them are decoder layers.

    Raises:
        UsageError: there are fewer decoder layers than parts.
    """
    starts = [place for place, is_layer in enumerate(layers) if is_layer]
    bounds = [0, *starts[1:], len(costs)]
    runs = share([sum(costs[a:b]) for a, b in zip(bounds, bounds[1:])], parts)
    return [range(bounds[run.start], bounds[run.stop]) for run in runs]


def share(costs: Sequence[float], parts: int) -> List[range]:
    """Deal `len(costs)` units out to `parts` consecutive runs, none of them empty.

    The greatest cost of a run is as small as can be, since the slowest rank sets the pace; among the ways to reach that
    the costs are as even as can be (least sum of squares), and among these the earlier runs are the longer ones.

    Args:
        costs: of the units in order, in any unit of time.

    Raises:
        UsageError: there are fewer units than parts.
    """
    if len(costs) < parts:
        raise UsageError(
            f"The model has {len(costs)} decoder layers, and pipeline_parallel_degree x virtual_pp_degree = {parts} "
            f"parts take at least one each. Lower these degrees until their product is at most {len(costs)}"
        )
    return list(_share(tuple(costs), parts))


@lru_cache(maxsize=256)
def _share(costs: Tuple[float, ...], parts: int) -> Tuple[range, ...]:
    slowest = _divide(costs, parts, max, lambda cost: cost).worth
    even = _divide(costs, parts, lambda a, b: a + b, lambda cost: cost * cost if cost <= slowest else float("inf"))
    return tuple(range(start, stop) for start, stop in zip((0, *even.ends), even.ends))


Join = Callable[[float, float], float]
Rate = Callable[[float], float]


class _Division(NamedTuple):
    """The ends of some runs, and what they are worth: the less the better."""

    worth: float
    ends: List[int]


class _Last(NamedTuple):
    """Where the last run of a division starts, and what the division is worth."""

    worth: float
    start: int


def _divide(costs: Sequence[float], parts: int, join: Join, rate: Rate) -> _Division:
    """The division with the least worth: that of its runs by `rate(cost)`, joined by `join`. Neither falls where one of
    what it is given grows, and what is joined is worth no less than each."""
    sums = [0.0, *accumulate(costs)]
    units = range(1, len(costs) + 1)
    best = [{stop: _Last(rate(sums[stop]), 0) for stop in units}]
    for part in range(2, parts + 1):
        best.append({stop: _last_run(best[-1], sums, range(part - 1, stop), join, rate) for stop in units[part - 1 :]})
    ends = [len(costs)]
    for lasts in reversed(best[1:]):
        ends.insert(0, lasts[ends[0]].start)
    return _Division(best[-1][len(costs)].worth, ends)


def _last_run(before: Dict[int, _Last], sums: Sequence[float], starts: range, join: Join, rate: Rate) -> _Last:
    """The best of the `starts` of a run that ends where they do, behind the divisions that end there."""
    worth, found = float("inf"), starts[-1]
    for start in reversed(starts):  # so that among equals the earlier runs are the longer ones
        run = rate(sums[starts.stop] - sums[start])
        if run > worth:  # still longer ones are worth no less
            break
        joined = join(before[start].worth, run)
        if joined < worth:
            worth, found = joined, start
    return _Last(worth, found)
