"""Dynamic loss scaling, for gradients in float16."""

from __future__ import annotations

from typing import Any, Dict

from paddlenlp.utils.errors import UsageError


class LossScaler:
    """The factor on the loss that keeps float16 gradients above underflow, adapted as `paddle.amp.GradScaler` does.

    A step whose gradients overflow multiplies the scale by `decr_ratio` (never below 1) and is to be skipped; after
    `incr_every_n_steps` good steps in a row the scale is multiplied by `incr_ratio`. Paddle's own class does nothing
    on a CPU and keeps its counters in device tensors.
    """

    def __init__(
        self,
        scale: float = 2.0**15,
        *,
        incr_ratio: float = 2.0,
        decr_ratio: float = 0.5,
        incr_every_n_steps: int = 2000,
        decr_every_n_nan_or_inf: int = 1,
    ) -> None:
        self.scale = float(scale)
        self.incr_ratio = incr_ratio
        self.decr_ratio = decr_ratio
        self.incr_every_n_steps = incr_every_n_steps
        self.decr_every_n_nan_or_inf = decr_every_n_nan_or_inf
        self.incr_count = 0
        self.decr_count = 0

    def update(self, overflow: bool) -> None:
        """Tell whether the gradients of the step that ends here overflowed."""
        if overflow:
            self.incr_count = 0
            self.decr_count += 1
            if self.decr_count == self.decr_every_n_nan_or_inf:
                self.scale = max(self.scale * self.decr_ratio, 1.0)
                self.decr_count = 0
        else:
            self.decr_count = 0
            self.incr_count += 1
            if self.incr_count == self.incr_every_n_steps:
                grown = self.scale * self.incr_ratio
                self.scale = grown if grown < 3.4e38 else self.scale
                self.incr_count = 0

    def state_dict(self) -> Dict[str, Any]:
        """The scale and its counters, under the names that Paddle's scaler uses."""
        return {"scale": self.scale, "incr_count": self.incr_count, "decr_count": self.decr_count}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Continue from what `state_dict` returned.

        Raises:
            UsageError: an entry is missing.
        """
        try:
            scale, incr, decr = float(state["scale"]), int(state["incr_count"]), int(state["decr_count"])
        except (KeyError, TypeError) as error:
            raise UsageError(
                f"loss scaler state: expected scale, incr_count and decr_count, found {state!r}"
            ) from error
        self.scale, self.incr_count, self.decr_count = scale, incr, decr
