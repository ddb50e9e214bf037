"""From the gradients of backward passes to what the optimizer updates, and back to the parameters.

A model has one object of this kind (`model.gradients`). `CausalLM.train_batch` tells it what happens; the optimizer
reads its pieces. `WholeGradients` serves a job of one process, `sharding.ShardedGradients` every other. A step is

    begin(micro_batches)
    for each micro batch and chunk of stages:
        run_stage(layer, run, x) for each stage      forward
        before_backward(stages, last)                immediately before the backward pass through these stages
        loss.backward(), or that of hidden states
        backward_done(stages, last)                  immediately after it
    finish()                                         gradients are whole: summed over all ranks that hold the element
    for piece in pieces: gradient(piece) -> update of piece.weight
    publish()                                        the updated elements, in the parameters of every rank
    clear()                                          gradients are freed

`last` says that this backward pass is the last of the step through these stages: what communicates once a step starts
then. Every rank that shares parameters must go through the same calls in the same order.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Iterator, List, Optional, Sequence

import paddle
from paddle import Tensor, nn

from paddlenlp.nn import kernels
from paddlenlp.nn.precision import GradientSums

from .topology import topology


@dataclass
class Piece:
    """What this rank updates of one parameter: elements [start, stop) of its flattened tensor-parallel share.

    Attributes:
        name: the parameter's structured name.
        param: the parameter of this rank. Under sharding stage 3 it is empty between uses; its shape stays.
        start, stop: the elements.
        weight: float32, what the optimizer updates: the elements themselves, or their float32 master copy. Of the
            parameter's shape, or flat.
        master: whether `weight` is a master copy.
        copies: how many ranks of the whole job update these same elements; their square counts as 1 / copies in the
            global norm. A float32 tensor [stop - start] where elements differ in it (some columns are copies).
    """

    name: str
    param: Tensor
    start: int
    stop: int
    weight: Tensor
    master: bool = False
    copies: Any = 1

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the parameter."""
        return self.stop - self.start == self.param.size


class Gradients(ABC):
    """What `model.gradients` is; see the top of this file.

    Attributes:
        frozen: names of the parameters that are not trained.
    """

    frozen: List[str]

    @property
    @abstractmethod
    def pieces(self) -> List[Piece]:
        """What this rank updates. Pieces of a parameter cover it once over the ranks of its sharding group."""

    @abstractmethod
    def begin(self, micro_batches: int) -> None:
        """A step of so many micro batches begins."""

    @abstractmethod
    def before_backward(self, stages: Sequence[nn.Layer], last: bool) -> None:
        """The backward pass of one micro batch through `stages` is next; `last` says whether it is their last one."""

    @abstractmethod
    def backward_done(self, stages: Sequence[nn.Layer], last: bool) -> None:
        """The backward pass that `before_backward` announced is over."""

    @abstractmethod
    def finish(self) -> None:
        """All backward passes are over: bring the gradients of the pieces to their final values."""

    @abstractmethod
    def gradient(self, piece: Piece) -> Optional[Tensor]:
        """The gradient of a piece, float32, shaped as its weight: summed over the ranks, not divided by their number.

        None where the piece got none. Changing it in place changes no other piece.
        """

    @abstractmethod
    def publish(self) -> None:
        """Bring the updated weights of all ranks' pieces into the parameters."""

    @abstractmethod
    def clear(self) -> None:
        """Free the gradients."""

    @abstractmethod
    def run_stage(self, layer: nn.Layer, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """`run(x)` with the parameters of `layer` at hand, now and in the backward pass."""

    @abstractmethod
    def whole(self, *layers: nn.Layer) -> Any:
        """Context in which the parameters of these stages hold their values, to be read or set (checkpoints).

        All ranks enter it together. What is set stays set; where there are masters, they are to be set too.
        """

    @property
    def reads_whole(self) -> bool:
        """Whether parameters hold their values at any time, so that `whole` does nothing."""
        return True


class WholeGradients(Gradients):
    """Of a job of one process: gradients stay in `param.grad`, and pieces are whole parameters.

    Args:
        model: has `named_parameters()`; a tied parameter occurs once.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._pieces: Optional[List[Piece]] = None
        self._sums = GradientSums([])
        self._summed: Sequence[Any] = []

    @property
    def frozen(self) -> List[str]:  # type: ignore[override]
        return [name for name, param in self._model.named_parameters() if param.stop_gradient]

    @property
    def pieces(self) -> List[Piece]:
        if self._pieces is None:
            named = list(self._model.named_parameters())
            self._pieces = [_whole(name, param) for name, param in named if not param.stop_gradient]
        return self._pieces

    def begin(self, micro_batches: int) -> None:
        params = [param for _, param in self._model.named_parameters()]
        self._sums = GradientSums(params)
        self._sum_in_products([param for param in params if micro_batches > 1 and kernels.adds_products(param)])

    def before_backward(self, stages: Sequence[nn.Layer], last: bool) -> None:
        pass

    def backward_done(self, stages: Sequence[nn.Layer], last: bool) -> None:
        self._sums.add()

    def finish(self) -> None:
        self._sum_in_products([])
        self._sums.finish()

    def _sum_in_products(self, params: Sequence[Any]) -> None:
        """Have the gradients of these parameters, and of no others, added up inside matrix products."""
        for param in self._summed:
            param.gradient_sum = None
        for param in params:
            param.gradient_sum = partial(self._sums.total, param)
        self._summed = params

    def gradient(self, piece: Piece) -> Optional[Tensor]:
        gradient: Any = piece.param.grad
        same = gradient is None or gradient.dtype == paddle.float32
        return gradient if same else gradient.astype("float32")

    def publish(self) -> None:
        kernels.each(_round, [piece for piece in self.pieces if piece.master])

    def clear(self) -> None:
        for piece in self.pieces:  # the first backward pass then stores instead of adding to zeros
            piece.param.clear_gradient(False)

    def run_stage(self, layer: nn.Layer, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return run(x)

    @contextmanager
    def whole(self, *layers: nn.Layer) -> Iterator[None]:
        yield


def _whole(name: str, param: Tensor) -> Piece:
    master = param.dtype != paddle.float32
    return Piece(name, param, 0, param.size, param.detach().astype("float32") if master else param, master)


def _round(piece: Piece) -> None:
    paddle.assign(piece.weight.astype(piece.param.dtype), output=piece.param)


def total_over_data(x: Tensor) -> Tensor:
    """The sum of a scalar over the ranks that read different samples, in place."""
    return topology().data.group.all_reduce(x).wait()


def total_loss(loss: Tensor) -> Tensor:
    """The sum of a loss over the whole job, of which tensor-parallel ranks hold the same, as float32."""
    mesh = topology()
    return mesh.world.group.all_reduce(loss.astype("float64") / mesh.tp.size).wait().astype("float32")
