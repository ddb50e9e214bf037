"""Random numbers of dropout, from two streams.

| stream | tensor-parallel ranks | what is dropped with it                                                       |
|--------|-----------------------|-------------------------------------------------------------------------------|
| same   | draw the same numbers | what every rank holds whole: hidden states without sequence parallelism       |
| own    | each draws its own    | what is cut over them: heads, widths, and rows under sequence parallelism     |

Data-parallel and pipeline ranks differ in both. "same" is Paddle's generator; "own" is kept by Paddle's tracker of
generators, whose states Paddle's recompute puts back before it runs a layer again.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Dict, List, Optional

import paddle
from paddle import Tensor
from paddle.nn import functional as F

from paddlenlp.utils.errors import UsageError

from .topology import topology

OWN = "own"


def seed_streams(same_seed: int, own_seed: int) -> None:
    """Start both streams anew. `own_seed` must differ between tensor-parallel ranks, and from `same_seed`."""
    tracker = _tracker()
    tracker.reset()
    tracker.add(OWN, own_seed)
    paddle.seed(same_seed)


def own_stream() -> AbstractContextManager:
    """Within it Paddle draws from this rank's own stream. In a tensor-parallel group of one there is no other.

    Raises:
        UsageError: `seed_streams` has not been called.
    """
    if topology().tp.size == 1:
        return nullcontext()
    tracker = _tracker()
    if OWN not in tracker.states_:
        raise UsageError("dropout over tensor-parallel ranks needs parallel.dropout.seed_streams(same_seed, own_seed)")
    return tracker.rng_state(OWN)


def dropout(x: Tensor, rate: float, training: bool = True, cut: Optional[bool] = None) -> Tensor:
    """Zero elements of `x` with probability `rate` and divide the others by 1 - rate; `x` itself when not training.

    Args:
        cut: whether tensor-parallel ranks hold different parts of `x`. None: `x` are hidden states between the layers,
            of which they do under sequence parallelism.
    """
    if not rate or not training:
        return x
    with own_stream() if (topology().sequence_parallel if cut is None else cut) else nullcontext():
        return F.dropout(x, rate)


def stream_states() -> Dict[str, List[Any]]:
    """Stream -> its generator states, of the kind that `paddle.get_rng_state` returns; of "own" only, since "same" is
    Paddle's. Empty before `seed_streams`."""
    return _tracker().get_states_tracker()


def set_stream_states(states: Dict[str, List[Any]]) -> None:
    """Continue from what `stream_states` returned."""
    tracker = _tracker()
    for name in states:
        if name not in tracker.states_:
            tracker.add(name, 0)
    tracker.set_states_tracker(states)


def _tracker() -> Any:
    from paddle.distributed.fleet.meta_parallel import get_rng_state_tracker

    return get_rng_state_tracker()
