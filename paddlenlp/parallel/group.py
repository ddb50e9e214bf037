"""The seam between the engine and what moves the bytes: a group of ranks and its operations.

The engine (`comm`, `pipeline`, `sharding`, the trainer) calls these and nothing else. `SocketGroup` carries them out
over TCP between CPU processes, `PaddleGroup` with `paddle.distributed` (NCCL and other devices).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, Any, Callable, Generic, Optional, Sequence, Tuple, TypeVar

from .heartbeat import beat

if TYPE_CHECKING:  # who stands in which group is settled before Paddle is imported
    from paddle import Tensor

Result = TypeVar("Result")


class Work(Generic[Result]):
    """An operation under way. `wait` gives its result, as often as it is asked."""

    def __init__(self, finish: Callable[[], Result]) -> None:
        self._finish: Optional[Callable[[], Result]] = finish
        self._result: Optional[Result] = None

    def wait(self) -> Result:
        """The result, once it is there."""
        if self._finish is not None:
            self._result, self._finish = self._finish(), None
        return self._result  # type: ignore[return-value]


def done(result: Result) -> Work[Result]:
    """An operation that is over."""
    return Work(lambda: result)


class Traffic:
    """Counts what this process sends: (group, operation) -> calls and bytes of this rank's input.

    Groups of one rank send nothing and are not counted.
    """

    def __init__(self) -> None:
        self.calls: Counter = Counter()
        self.bytes: Counter = Counter()

    def add(self, group: str, operation: str, tensor: Optional[Tensor]) -> None:
        """Note one call."""
        self.calls[group, operation] += 1
        self.bytes[group, operation] += 0 if tensor is None else tensor.size * tensor.element_size()

    def clear(self) -> None:
        """Start counting anew."""
        self.calls.clear()
        self.bytes.clear()


traffic = Traffic()


class Group(ABC):
    """Ranks that communicate. Every rank of the group calls the same operations in the same order.

    Tensors are contiguous and carry no gradient; all ranks give the same shape and dtype unless it says otherwise. Sums
    are taken in rank order, in float32 or better, so that all ranks get the same bits; of truth values, the sum says
    whether one is true. An operation starts when it is called; its input must not change before `wait`.

    Args:
        name: what it is for ("tp", "world"); in error messages and `traffic`.
        ranks: global ranks, ascending.
        rank: place of this process among them.

    Attributes:
        device: where the tensors lie that it exchanges; None: where Paddle computes.
        calls: operations begun so far.

    Raises:
        UsageError: (all operations) a rank has ended (RankFailed), does something else, or did not answer in time;
            names operation, group and the missing ranks.
    """

    device: Any = None

    def __init__(self, name: str, ranks: Sequence[int], rank: int) -> None:
        self.name, self.ranks, self.rank = name, tuple(ranks), rank
        self.size = len(self.ranks)
        self.calls = 0

    def all_reduce(self, x: Tensor, op: str = "sum") -> Work[Tensor]:
        """Combine `x` over the ranks, in place; `op` is "sum", "max" or "min"."""
        return self._run("all_reduce", x, lambda: self._all_reduce(x, op))

    def all_gather(self, x: Tensor) -> Work[Tensor]:
        """All ranks' `x` one after the other along axis 0: [n, ...] -> [size * n, ...]; a scalar counts as [1]."""
        return self._run("all_gather", x, lambda: self._all_gather(x))

    def reduce_scatter(self, x: Tensor) -> Work[Tensor]:
        """This rank's share, along axis 0, of the sum of all ranks' `x`: [size * n, ...] -> [n, ...]."""
        return self._run("reduce_scatter", x, lambda: self._reduce_scatter(x))

    def all_to_all(
        self, x: Tensor, sent: Optional[Sequence[int]] = None, received: Optional[Sequence[int]] = None
    ) -> Work[Tensor]:
        """Rows of `x` go to the ranks, in rank order; what comes back is in rank order too.

        Args:
            sent: rows for each rank; equal shares if None.
            received: rows from each rank; equal shares if None.
        """
        return self._run("all_to_all", x, lambda: self._all_to_all(x, sent, received))

    def broadcast(self, x: Tensor, source: int = 0) -> Work[Tensor]:
        """Every rank's `x` becomes that of the rank at place `source`, in place."""
        return self._run("broadcast", x, lambda: self._broadcast(x, source))

    def send(self, x: Tensor, to: int) -> Work[None]:
        """Send `x` to the rank at place `to`, which receives what this rank sends in the order of sending."""
        traffic.add(self.name, "send", x)
        beat.note(self, "send")
        return self._send(x, to)

    def receive(self, shape: Sequence[int], dtype: str, source: int) -> Work[Tensor]:
        """A tensor of this shape and dtype from the rank at place `source`."""
        beat.note(self, "receive")
        return self._receive(shape, dtype, source)

    def barrier(self) -> None:
        """Return when all ranks have called it."""
        if self.size > 1:
            traffic.add(self.name, "barrier", None)
            beat.note(self, "barrier")
            self._barrier()

    def _run(self, operation: str, x: Tensor, start: Callable[[], Work[Tensor]]) -> Work[Tensor]:
        if self.size == 1:
            return done(x)
        traffic.add(self.name, operation, x)
        beat.note(self, operation)
        return start()

    @abstractmethod
    def _all_reduce(self, x: Tensor, op: str) -> Work[Tensor]: ...

    @abstractmethod
    def _all_gather(self, x: Tensor) -> Work[Tensor]: ...

    @abstractmethod
    def _reduce_scatter(self, x: Tensor) -> Work[Tensor]: ...

    @abstractmethod
    def _all_to_all(
        self, x: Tensor, sent: Optional[Sequence[int]], received: Optional[Sequence[int]]
    ) -> Work[Tensor]: ...

    @abstractmethod
    def _broadcast(self, x: Tensor, source: int) -> Work[Tensor]: ...

    @abstractmethod
    def _send(self, x: Tensor, to: int) -> Work[None]: ...

    @abstractmethod
    def _receive(self, shape: Sequence[int], dtype: str, source: int) -> Work[Tensor]: ...

    @abstractmethod
    def _barrier(self) -> None: ...


class SoloGroup(Group):
    """A group of one rank: nothing is sent."""

    def __init__(self, name: str = "solo", ranks: Tuple[int, ...] = (0,)) -> None:
        super().__init__(name, ranks, 0)

    def _nobody(self, *_: object) -> Any:
        raise AssertionError(f"group {self.name} has one rank: there is nobody to exchange with")

    _all_reduce: Any = _nobody
    _all_gather: Any = _nobody
    _reduce_scatter: Any = _nobody
    _all_to_all: Any = _nobody
    _broadcast: Any = _nobody
    _send: Any = _nobody
    _receive: Any = _nobody
    _barrier: Any = _nobody
