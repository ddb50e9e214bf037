"""Groups of processes with a device each, over `paddle.distributed` (NCCL on NVIDIA GPUs).

Never run on a GPU: there was none where it was written. Its calls are tested against a stand-in for
`paddle.distributed` (tests/parallel/test_paddle_group.py) and were checked against the source of Paddle 3.3.1.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Callable, Optional, Sequence
from weakref import ref
from zlib import crc32

import paddle
import paddle.distributed as dist
from paddle import Tensor

from .group import Group, Work
from .heartbeat import beat
from .transport import patience

LONGEST = 30 * 24 * 3600.0
"""Seconds, the longest time for which Paddle is told to wait for another rank."""

_OPS = {"sum": dist.ReduceOp.SUM, "max": dist.ReduceOp.MAX, "min": dist.ReduceOp.MIN}


class PaddleGroup(Group):
    """A group over a process group of Paddle.

    Operations run on the communication stream, beside what is computed; `wait` has the calculation stream wait for
    them, not the program. Sums are taken in NCCL's order and in the tensor's own type. In that alone it differs from
    what `Group` says: all ranks get the same, but not bit by bit what another backend gives.

    Args:
        name, ranks, rank: see Group. Every rank of the job makes every group, in the same order, also those that it is
            not in (negative `rank`): Paddle numbers them by that order.
    """

    def __init__(self, name: str, ranks: Sequence[int], rank: int) -> None:
        super().__init__(name, ranks, rank)
        if not dist.is_initialized():
            dist.init_parallel_env()
        self._group = dist.new_group(list(self.ranks), timeout=timedelta(seconds=min(patience(), LONGEST)))
        self.key = f"{crc32(repr((name, self.ranks)).encode()):08x}"
        self.unpaired = 0
        if rank >= 0:
            beat.unseen.append(ref(self))

    @property
    def turns(self) -> int:
        """How many operations have begun in which all ranks of the group take part."""
        return self.calls - self.unpaired

    def _all_reduce(self, x: Tensor, op: str) -> Work[Tensor]:
        if x.dtype == paddle.bool:  # NCCL knows no truth values: the sum says whether one is true, as the maximum does
            flags = x.astype("uint8")
            work = self._all_reduce(flags, "min" if op == "min" else "max")
            return Work(lambda: paddle.assign(work.wait().astype("bool"), x))
        return self._start(dist.stream.all_reduce, x, x, _OPS[op])

    def _all_gather(self, x: Tensor) -> Work[Tensor]:
        rows, *rest = x.shape or [1]
        out = paddle.empty([self.size * rows, *rest], x.dtype)
        return self._start(dist.stream.all_gather, out, out, x.reshape([rows, *rest]).contiguous())

    def _reduce_scatter(self, x: Tensor) -> Work[Tensor]:
        out = paddle.empty([x.shape[0] // self.size, *x.shape[1:]], x.dtype)
        return self._start(dist.stream.reduce_scatter, out, out, x.contiguous(), _OPS["sum"])

    def _all_to_all(self, x: Tensor, sent: Optional[Sequence[int]], received: Optional[Sequence[int]]) -> Work[Tensor]:
        share = [x.shape[0] // self.size] * self.size
        rows_in, rows_out = list(sent or share), list(received or share)
        out = paddle.empty([sum(rows_out), *x.shape[1:]], x.dtype)
        return self._start(dist.stream.alltoall_single, out, out, x.contiguous(), rows_out, rows_in)

    def _broadcast(self, x: Tensor, source: int) -> Work[Tensor]:
        return self._start(dist.stream.broadcast, x, x, self.ranks[source])

    def _send(self, x: Tensor, to: int) -> Work[None]:
        self.unpaired += self.size > 2
        work = self._start(dist.stream.send, x, x.contiguous(), self.ranks[to])
        return Work(lambda: (work.wait(), None)[1])

    def _receive(self, shape: Sequence[int], dtype: str, source: int) -> Work[Tensor]:
        self.unpaired += self.size > 2
        out = paddle.empty(list(shape), dtype)  # type: ignore[arg-type]
        return self._start(dist.stream.recv, out, out, self.ranks[source])

    def _barrier(self) -> None:
        dist.barrier(self._group)

    def _start(self, operation: Callable[..., Any], result: Tensor, *arguments: Any) -> Work[Tensor]:
        """Start an operation; the handle keeps its tensors alive until it is over."""
        task = operation(*arguments, group=self._group, sync_op=False)

        def wait() -> Tensor:
            _ = arguments
            task.wait()
            return result

        return Work(wait)
