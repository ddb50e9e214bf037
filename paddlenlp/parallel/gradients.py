"""From the gradients of backward passes to what the optimizer updates, and back to the parameters.

A model has one object of this kind (`model.gradients`). `CausalLM.train_batch` tells it what happens; the optimizer
reads its pieces. `WholeGradients` serves a process that shares its parameters with no other; the others are in
`sharding`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, List

from paddle import Tensor


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
