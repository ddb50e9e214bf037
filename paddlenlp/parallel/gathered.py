"""Sharding stage 3: the parameters of a stage are gathered before they are used and freed afterwards."""

from __future__ import annotations

from contextlib import contextmanager
from typing import Dict, Iterator, List, Optional, Sequence

from paddle import Tensor

from .buckets import Bucket


class GatheredStages:
    """The parameters of a model of which each rank keeps its share.

    A stage takes its parameters for its forward pass, and again for its backward pass, in which recomputed
    activations are included; meanwhile those of the stage that is next are on their way. A parameter that two stages
    use (a tied table) comes for each. In use at once are those of one stage and, in backward passes, for as long as
    operations on them are queued, those of the one before.

    Args:
        used: the parameters that each stage of this process computes with, in order of execution.
        buckets: none of which holds parameters of two stages.
    """

    def __init__(self, used: Sequence[Sequence[Tensor]], buckets: Sequence[Bucket]) -> None:
        self._buckets = [bucket for bucket in buckets if bucket.shard.size > 1]
        self._needs = [_holders(params, self._buckets) for params in used]
        self._held: List[int] = []
        self._chunk: Dict[int, int] = {}
        for bucket in self._buckets:
            bucket.keep_share()

    def stages_together(self, places: Sequence[int]) -> None:
        """Tell which stages run one after the other: only such a neighbour is fetched ahead."""
        self._chunk.update(dict.fromkeys(places, places[0]))

    @contextmanager
    def in_use(self, place: int) -> Iterator[None]:
        """Context in which a stage finds its parameters."""
        self._take(place, place + 1)
        try:
            yield
        finally:
            self._drop(place)

    def backward_reaches(self, place: int) -> None:
        """The backward pass of this stage is next, and that of the one behind it is over but for queued operations on
        its parameters."""
        behind = self._held[-1:]
        kept = [held for held in behind if not self._is_over(held)]
        for held in [*self._held[:-1], *(held for held in behind if held not in kept)]:
            self._drop(held)
        self._take(place, place - 1)
        self._held = [*kept, place]

    def end_backward(self) -> None:
        """A backward pass is over."""
        while self._held:
            self._drop(self._held.pop())

    def forget(self) -> None:
        """The shares have changed: what was fetched ahead is no longer right."""
        for bucket in self._buckets:
            bucket.forget_gathered()

    @contextmanager
    def set_by_user(self, places: Sequence[int]) -> Iterator[None]:
        """Context in which these stages' parameters hold their values; changes are kept."""
        for place in places:
            self._take(place, None)
        try:
            yield
        finally:
            for place in places:
                for bucket in self._needs[place]:
                    bucket.take_over()
                self._drop(place)

    def _is_over(self, place: int) -> bool:
        """Whether all gradients of the parameters that this stage uses have come."""
        return all(bucket.is_full for bucket in self._needs[place])

    def _take(self, place: int, following: Optional[int]) -> None:
        fetched = list(self._needs[place])
        if following is not None and following in self._chunk and self._chunk[following] == self._chunk[place]:
            fetched += self._needs[following]
        for bucket in fetched:
            bucket.start_gather()
        for bucket in self._needs[place]:
            bucket.arrive()

    def _drop(self, place: int) -> None:
        for bucket in self._needs[place]:
            bucket.leave()


def _holders(params: Sequence[Tensor], buckets: Sequence[Bucket]) -> List[Bucket]:
    """The buckets that hold one of these parameters."""
    wanted = {id(param) for param in params}
    return [bucket for bucket in buckets if any(id(member.param) in wanted for member in bucket.members)]
