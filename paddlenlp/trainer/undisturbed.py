"""Looking at a model without changing the run: random numbers, mode and weights are put back afterwards."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, List, Optional

import paddle
from paddle import Tensor

from paddlenlp.trainer.rng import remember_rng


@contextlib.contextmanager
def preserved_rng() -> Iterator[None]:
    """Whatever random numbers the block draws, the generators stand afterwards where they stood before."""
    put_back = remember_rng()
    try:
        yield
    finally:
        put_back()


@contextlib.contextmanager
def eval_mode(model: Any) -> Iterator[None]:
    """Dropout off inside the block; afterwards the mode the model was in, and the random numbers as they were."""
    training = model.training
    model.eval()
    try:
        with preserved_rng(), paddle.no_grad():
            yield
    finally:
        if training:
            model.train()


@contextlib.contextmanager
def weights_in(model: Any, dtype: Optional[str]) -> Iterator[None]:
    """The trained weights rounded to `dtype` inside the block (None: as they are), and bit for bit the old ones
    afterwards.

    The parameters keep their storage dtype, so that every kernel that trains the model also evaluates it. Each rank
    rounds what it updates, so this holds in every layout; all ranks enter it together.
    """
    if dtype is None:
        yield
        return
    gradients = model.gradients
    weights = [piece.weight for piece in gradients.pieces]
    before = [weight.clone() for weight in weights]
    _set(weights, [value.astype(dtype).astype(value.dtype) for value in before])
    gradients.publish()
    try:
        yield
    finally:
        _set(weights, before)
        gradients.publish()


@paddle.no_grad()
def _set(weights: List[Tensor], values: List[Tensor]) -> None:
    for weight, value in zip(weights, values):
        paddle.assign(value, output=weight)
