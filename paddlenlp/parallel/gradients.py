"""From the gradients of backward passes to what the optimizer updates, and back to the parameters.

A model has one object of this kind (`model.gradients`). `CausalLM.train_batch` tells it what happens; the optimizer
reads its pieces. `WholeGradients` serves a process that shares its parameters with no other; the others are in
`sharding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Sequence

from paddle import Tensor, nn

from paddlenlp.nn.precision import GradientSums

from .topology import topology


@dataclass
class Piece:
    """What this rank updates of one parameter: elements [start, stop) of its flattened tensor-parallel share.

    Attributes:
        name: the parameter's structured name.
        param: the parameter of this rank.
        start, stop: the elements.
        weight: float32, what the optimizer updates: the elements themselves, or their float32 master copy.
        copies: how many ranks of the whole job update these same elements; their square counts as 1 / copies in the
            global norm. A tensor where elements differ in it (some columns are copies, others are not).
    """

    name: str
    param: Tensor
    start: int
    stop: int
    weight: Tensor
    copies: Any = 1


class WholeGradients:
    """Of a process that holds the only copy of its parameters: gradients stay in `param.grad`."""

    def __init__(self, model: nn.Layer) -> None:
        self._model = model
        self._sums = GradientSums([])

    def begin(self, micro_batches: int) -> None:
        """A step of so many micro batches begins."""
        self._sums = GradientSums(self._model.parameters())

    def backward_done(self, stages: Sequence[nn.Layer], last: bool) -> None:
        """The backward pass of one micro batch through `stages` is over; `last` says whether it is their last one."""
        self._sums.add()

    def finish(self) -> None:
        """All backward passes are over."""
        self._sums.finish()

    def run_stage(self, layer: nn.Layer, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`run(x)` with the parameters of `layer` at hand, now and in the backward pass."""
        return run(x)


def total_over_data(x: Tensor) -> Tensor:
    """The sum of a scalar over the ranks that read different samples, in place."""
    return topology().data.group.all_reduce(x).wait()


def total_loss(loss: Tensor) -> Tensor:
    """The sum of a loss over the whole job, of which tensor-parallel ranks hold the same, as float32."""
    mesh = topology()
    return mesh.world.group.all_reduce(loss.astype("float64") / mesh.tp.size).wait().astype("float32")
