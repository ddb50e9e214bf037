"""Carrying out a schedule: hidden states go to the next rank, their gradients to the one before.

Every rank reads the same micro batches, so shapes are known and nothing but hidden states [rows, hidden] is sent. With
one pipeline rank nothing is sent at all, and a step is one forward and one backward pass after the other.
"""

from __future__ import annotations

from collections import deque
from itertools import product
from typing import Any, Callable, Deque, Dict, List, NamedTuple, Optional, Sequence, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from .group import Work
from .schedule import Task, schedule
from .taken import taken
from .topology import topology

_partial = True
_chunks = 1


def set_partial_exchange(on: bool) -> None:
    """Whether each tensor-parallel rank sends 1 / tp of the rows, which the receivers then gather among each other.

    The result is the same, bit for bit; between hosts the bytes are 1 / tp. Under sequence parallelism the ranks hold
    different rows in any case, and where tp does not divide the rows each sends them all.
    """
    global _partial
    _partial = on


def set_virtual_stages(chunks: int) -> None:
    """How many chunks of a model each pipeline rank holds (`virtual_pp_degree`), for the models built from now on."""
    global _chunks
    _chunks = max(1, chunks)


def virtual_stages() -> int:
    """The chunks of each rank: 1 where there is no pipeline."""
    return _chunks if topology().pp.size > 1 else 1


class Hidden(NamedTuple):
    """What travels: hidden states [rows, width] of a dtype, of which each tensor-parallel rank has `rows` rows."""

    rows: int
    width: int
    dtype: str


class Mail:
    """Sends to and receives from the neighbours. Sending never waits for the receiver; order on a link is kept.

    What is sent stays (in its `Work`) until the receiver is known to have taken it, and is then let go: `taken` tells.
    So nothing is waited for, and no send is asked whether it is over.
    """

    def __init__(self) -> None:
        self._leaving: Dict[str, Deque[Work[None]]] = {"forward": deque(), "backward": deque()}
        self._gone = {"forward": 0, "backward": 0}

    def send(self, direction: str, x: Tensor) -> None:
        """Send `x` [rows, width] "forward" to the next rank or "backward" to the one before."""
        group, leaving, tp = topology().links[f"{direction}_out"], self._leaving[direction], topology().tp
        rows = x.shape[0] // _shares(x.shape[0])
        own = x.detach() if rows == x.shape[0] else x.detach()[tp.rank * rows : (tp.rank + 1) * rows]
        leaving.append(group.send(own.contiguous(), 1 - group.rank))

    def let_go(self, direction: str, count: int) -> None:
        """The receiver has taken the first `count` of all that was sent this way."""
        for _ in range(self._gone[direction], count):
            self._leaving[direction].popleft().wait()
        self._gone[direction] = max(count, self._gone[direction])

    def receive(self, direction: str, hidden: Hidden) -> Work[Tensor]:
        """What the rank before sends "forward", or the next one "backward"."""
        group, shares = topology().links[f"{direction}_in"], _shares(hidden.rows)
        coming = group.receive([hidden.rows // shares, hidden.width], hidden.dtype, 1 - group.rank)
        return coming if shares == 1 else Work(lambda: topology().tp.group.all_gather(coming.wait()).wait())

    def finish(self) -> None:
        """Return when all that was sent has left; counting starts anew."""
        for direction, leaving in self._leaving.items():
            self.let_go(direction, self._gone[direction] + len(leaving))
            self._gone[direction] = 0


def _shares(rows: int) -> int:
    """Over how many tensor-parallel ranks the exchange of `rows` rows is shared out."""
    mesh = topology()
    return mesh.tp.size if _partial and not mesh.sequence_parallel and rows % mesh.tp.size == 0 else 1


class _Root(PyLayer):
    """Stands for hidden states that were sent: a backward pass starts here from the gradient that came back.

    So the hidden states themselves need not be kept until then.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, answer: List[Tensor]) -> Tensor:
        ctx.answer = answer
        return paddle.zeros([1])

    @staticmethod
    def backward(ctx: Any, _: Tensor) -> Tensor:
        return ctx.answer.pop()


class _Pass(NamedTuple):
    """A micro batch between its forward and backward pass: what went in, where the backward pass starts, and from
    what gradient."""

    x: Optional[Tensor]
    root: Tensor
    answer: List[Tensor]


class PipelineStep:
    """Forward and backward passes of one step over the chunks of this rank.

    Args:
        chunks: how many there are.
        hidden: micro batch -> what comes in and goes out.
        forward: (chunk, micro batch, hidden states, or None for the first part of the model) -> hidden states, or the
            scalar to differentiate from the last part.
        before_backward, backward_done: called with the chunk and the micro batch around each backward pass.
    """

    def __init__(
        self,
        chunks: int,
        hidden: Callable[[int], Hidden],
        forward: Callable[[int, int, Optional[Tensor]], Tensor],
        before_backward: Callable[[int, int], None],
        backward_done: Callable[[int, int], None],
    ) -> None:
        self._chunks, self._hidden, self._run = chunks, hidden, forward
        self._before_backward, self._backward_done = before_backward, backward_done
        self._mail = Mail()
        self._taken: Dict[Task, int] = {}
        self._coming: Dict[Task, Work[Tensor]] = {}
        self._open: Dict[Tuple[int, int], _Pass] = {}

    def run(self, micro_batches: int, between: Callable[[], object] = lambda: None) -> None:
        """All passes of a step.

        Args:
            between: called wherever no micro batch is between its forward and its backward pass, but not before the
                first and behind the last one; with several pipeline ranks, which are never there together, not at all.
        """
        pp = topology().pp
        plan = pp.size, pp.rank, micro_batches, self._chunks
        tasks, self._taken = schedule(*plan), taken(*plan)
        for number, task in enumerate(tasks):
            for soon in tasks[number : number + 2]:  # the next one's input travels while this one computes
                self._expect(soon)
            if number and pp.size == 1 and not self._open:
                between()
            if task.kind == "forward":
                self._forward(task)
            else:
                self._backward(task)
        self._mail.finish()

    def _expect(self, task: Task) -> None:
        edge = is_first if task.kind == "forward" else is_last
        if task not in self._coming and not edge(task.chunk, self._chunks):
            self._coming[task] = self._mail.receive(task.kind, self._hidden(task.micro))

    def _forward(self, task: Task) -> None:
        x = self._arrived(task)
        answer: List[Tensor] = []
        if x is not None:
            x.stop_gradient = False
        y = self._run(task.chunk, task.micro, x)
        if not is_last(task.chunk, self._chunks):
            self._mail.send("forward", y)
            y = _Root.apply(y, answer)
        self._open[task.chunk, task.micro] = _Pass(x, y, answer)

    def _backward(self, task: Task) -> None:
        x, root, answer = self._open.pop((task.chunk, task.micro))
        gradient = self._arrived(task)
        if gradient is not None:
            answer.append(gradient)
        self._before_backward(task.chunk, task.micro)
        if not root.stop_gradient:  # else everything up to here is frozen
            paddle.autograd.backward([root])
        if x is not None:
            assert x.grad is not None
            self._mail.send("backward", x.grad)
        self._backward_done(task.chunk, task.micro)

    def _arrived(self, task: Task) -> Optional[Tensor]:
        """What `task` starts from; None at the ends of the model."""
        if task not in self._coming:
            return None
        x = self._coming.pop(task).wait()
        self._mail.let_go("backward" if task.kind == "forward" else "forward", self._taken[task])
        return x


def pass_through(
    chunks: int, hidden: Sequence[Hidden], forward: Callable[[int, int, Optional[Tensor]], Tensor]
) -> List[Tensor]:
    """Forward passes of some micro batches through the chunks of all ranks, without gradients.

    A rank that is through with one goes on to the next, so with as many as there are ranks all soon have work.

    Args:
        chunks: of this rank.
        hidden: what travels between the parts, for each micro batch; not more than there are ranks.
        forward: as for `PipelineStep`.

    Returns:
        What the last part gives for each, on the last rank; nothing on the others.
    """
    mail, results = Mail(), []
    for chunk, micro in product(range(chunks), range(len(hidden))):
        x = None if is_first(chunk, chunks) else mail.receive("forward", hidden[micro]).wait()
        y = forward(chunk, micro, x)
        if is_last(chunk, chunks):
            results.append(y)
        else:
            mail.send("forward", y)
    mail.finish()
    return results


def from_last(x: Optional[Tensor], shape: List[int]) -> Tensor:
    """The float32 tensor of this shape that the last pipeline rank gives, on all of them."""
    pp = topology().pp
    if pp.size == 1 and x is not None:
        return x
    x = paddle.zeros(shape, "float32") if x is None else x.astype("float32").reshape(shape).contiguous()
    return pp.group.broadcast(x, pp.size - 1).wait()


def is_first(chunk: int, chunks: int) -> bool:
    """Whether chunk `chunk` of this rank's `chunks` is the first part of the model."""
    return chunk == 0 and topology().pp.is_first


def is_last(chunk: int, chunks: int) -> bool:
    """Whether it is the last part."""
    return chunk == chunks - 1 and topology().pp.is_last
