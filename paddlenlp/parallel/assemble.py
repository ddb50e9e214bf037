"""Whole tensors of what the ranks hold, one at a time on rank 0, for files that know no layout.

Each rank says which elements of which tensors it can give; rank 0 alone learns who holds what, and fetches a tensor
when it is written. Nobody has to know the order of writing, and what rank 0 holds itself is not sent.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple, TypeVar

import paddle
from paddle import Tensor

from paddlenlp.utils.tensor_writer import LazyTensor

from .catalogue import Catalogue, Key, Part, Source, Whole
from .errand import Errand

Value = TypeVar("Value")


class Assembly:
    """The tensors of which the ranks of the job hold parts. Made by all of them together.

    Args:
        groups: what this rank can give, by group of tensors. Of copies, one rank's is enough; more do no harm.
        order: tensors are listed in this order of their names, and in that of the ranks where it says nothing.

    Attributes:
        tensors: group -> name -> tensor, made when it is written; empty but on rank 0.
    """

    def __init__(self, groups: Mapping[str, Sequence[Part]], order: Callable[[str], Any]) -> None:
        self._catalogue = Catalogue(groups, order)
        self.tensors: Dict[str, Dict[str, LazyTensor]] = {group: {} for group in groups}
        for group, name in self._catalogue.wholes:
            self.tensors[group][name] = self._lazy((group, name))
        self._errand = Errand(parts=[part.tensor for part in self._catalogue.own])

    def wholes(self, group: str) -> List[Whole]:
        """The tensors of a group, in order; empty but on rank 0."""
        return self._catalogue.of(group)

    def write(self, action: Callable[[], Value]) -> Value:
        """Carry out `action`, which writes `tensors`, on rank 0, while the others hand out their parts.

        Returns:
            What it returned there, which must be what JSON can hold; on every rank.

        Raises:
            UsageError: it failed; on every rank.
        """
        return self._errand.run(action)

    def _lazy(self, key: Key) -> LazyTensor:
        whole = self._catalogue.wholes[key]
        return LazyTensor(whole.shape, whole.dtype, lambda: self._errand.lent(partial(self._gather, key)))

    def _gather(self, key: Key) -> Any:
        """The whole tensor: a Paddle tensor in host memory where one rank holds all of it, else an array."""
        whole, covers = self._catalogue.wholes[key], self._catalogue.covers(key)
        needed = [source for cover in covers for source in cover]
        wanted = [(source.rank, source.number, source.stop - source.start, whole.dtype) for source in needed]
        sent = iter(self._errand.ask([want for want in wanted if want[0]]))
        flat = {source: next(sent) if source.rank else self._catalogue.own[source.number].tensor() for source in needed}
        shares = [_share(whole, [(source, flat[source]) for source in cover]) for cover in covers]
        return shares[0] if len(shares) == 1 else whole.layout.join([share.numpy() for share in shares])


def _share(whole: Whole, parts: Sequence[Tuple[Source, Tensor]]) -> Tensor:
    """One share of `whole` of parts that cover it in order; each may begin within the one before."""
    if len(parts) == 1:
        return parts[0][1].detach().cpu().reshape(whole.share)
    values, end = [], 0
    for source, part in parts:
        values.append(part.detach().cpu().reshape([-1])[end - source.start :])
        end = source.stop
    return paddle.concat(values).reshape(whole.share)
