"""How the ranks of the `sequence` axis share the tokens of a row, and what moves between them in attention.

Segment parallelism (sep; DeepSpeed-Ulysses, arXiv:2309.14509) gives each rank the next s / n tokens: in attention the
ranks swap shares of the sequence for shares of the heads. Context parallelism (cp; ring attention, arXiv:2310.01889)
cuts a row into 2 n chunks and gives rank r chunks r and 2 n - 1 - r: in attention keys and values travel round the
ring, and since an early chunk sees little and its late partner much, all ranks compute the same number of blocks.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddlenlp.utils.errors import UsageError

from .group import Group, Work
from .topology import topology

CUT = ("input_ids", "labels")
"""What each rank has a share of. Masks and positions of a micro batch stay whole."""


def chunks_of(rank: int, size: int) -> Tuple[int, int]:
    """The chunks, of 2 * `size`, that context-parallel rank `rank` holds."""
    return rank, 2 * size - 1 - rank


def own_share(x: Tensor, axis: int = 1) -> Tensor:
    """What this rank holds of `x`, whose `axis` is the sequence: [b, s, ...] -> [b, s / n, ...] for n ranks that share
    it.

    Raises:
        UsageError: n ranks can't share s tokens equally.
    """
    mesh = topology()
    if mesh.sequence.size == 1:
        return x
    _check_length(x.shape[axis])
    if mesh.cp.size == 1:
        return paddle.chunk(x, mesh.sep.size, axis)[mesh.sep.rank]
    chunks = paddle.chunk(x, 2 * mesh.cp.size, axis)
    return paddle.concat([chunks[index] for index in chunks_of(mesh.cp.rank, mesh.cp.size)], axis)


def own_share_of_batch(micro_batch: Mapping[str, Any]) -> Dict[str, Any]:
    """`micro_batch` with what this rank holds of its token ids and labels; `make_batch` takes the rest as it is."""
    return {name: own_share(value) if name in CUT else value for name, value in micro_batch.items()}


def own_positions(length: int) -> Tensor:
    """Places, int64 [length / n], in a row of `length` tokens of those that this rank holds.

    Raises:
        UsageError: as `own_share`.
    """
    return own_share(paddle.arange(length, dtype="int64").unsqueeze(0)).squeeze(0)


def _check_length(length: int) -> None:
    mesh = topology()
    flag, shares = ("context_parallel_degree", 2) if mesh.cp.size > 1 else ("sep_parallel_degree", 1)
    shares *= mesh.sequence.size
    if length % shares:
        raise UsageError(
            f"{flag}={mesh.sequence.size} cuts each row into {shares} equal parts, and a row has {length} tokens: "
            f"set max_seq_length to a multiple of {shares}"
        )


class _Exchange(PyLayer):
    """Block i goes to rank i. The gradient goes the way back, which is the same exchange."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: Group) -> Tensor:
        ctx.group = group
        return group.all_to_all(x.contiguous()).wait()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return ctx.group.all_to_all(grad.contiguous()).wait()


def exchange(x: Tensor, group: Group) -> Tensor:
    """Block i of `x` [n, ...] goes to rank i; block i of the result is from rank i. With gradients."""
    return _Exchange.apply(x, group)


def shift(x: Tensor, group: Group) -> Work[Tensor]:
    """`x` goes to the next rank round the ring, and what the one before sends, of the same shape, is the result.

    No gradients. Even ranks send first and odd ranks receive first, so that where a send only ends once it is received
    there is always a pair that meets: in a ring of at least two ranks they can't all wait to send.
    """
    after, before = (group.rank + 1) % group.size, (group.rank - 1) % group.size
    x = x.contiguous()
    if group.rank % 2:
        received = group.receive(x.shape, _dtype(x), before)
        sent = group.send(x, after)
    else:
        sent = group.send(x, after)
        received = group.receive(x.shape, _dtype(x), before)

    def finish(held: Tensor = x) -> Tensor:  # what is under way must not be freed
        result = received.wait()
        sent.wait()
        return result

    return Work(finish)


def _dtype(x: Tensor) -> str:
    return str(x.dtype).rpartition(".")[2]
