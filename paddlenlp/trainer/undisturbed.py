"""Looking at a model without changing the run: random numbers, mode and weights are put back afterwards."""

from __future__ import annotations

import contextlib
from typing import Any, Iterator, Optional

import paddle

from paddlenlp.trainer.rng import rng_state, set_rng_state


@contextlib.contextmanager
def preserved_rng() -> Iterator[None]:
    """Whatever random numbers the block draws, the generators stand afterwards where they stood before."""
    state = rng_state()
    try:
        yield
    finally:
        set_rng_state(state)


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
    """The weights rounded to `dtype` inside the block (None: as they are), and bit for bit the old ones afterwards.

    The parameters keep their storage dtype, so that every kernel that trains the model also evaluates it.
    """
    if dtype is None:
        yield
        return
    before = {name: value.clone() for name, value in model.state_dict().items()}
    for value in model.state_dict().values():
        value.set_value(value.astype(dtype).astype(value.dtype))
    try:
        yield
    finally:
        for name, value in model.state_dict().items():
            value.set_value(before[name])
