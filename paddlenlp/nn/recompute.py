"""Recompute: which activations are dropped after the forward pass and computed again in the backward pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Optional, Tuple

from paddle.distributed.fleet.utils import recompute as _recompute

from paddlenlp.utils.errors import UsageError

GRANULARITIES = ("full", "full_attn", "core_attn")


@dataclass(frozen=True)
class RecomputePolicy:
    """What a training run recomputes.

    Attributes:
        enabled: whether anything is.
        granularity: "full" (a whole decoder layer), "full_attn" (its attention with the projections) or "core_attn"
            (only scores, softmax and the weighted sum).
        no_recompute_layers: indices of decoder layers that keep their activations.
        interval: every `interval`-th decoder layer recomputes, counted from layer 0; 0 means none.
        use_reentrant: whether the forward pass runs without recording and is replayed as one operation (True), or is
            recorded with its saved tensors replaced by the recipe to get them (False).

    Raises:
        UsageError: the granularity is not known.
    """

    enabled: bool = False
    granularity: str = "full"
    no_recompute_layers: Tuple[int, ...] = ()
    interval: int = 1
    use_reentrant: bool = False

    def __post_init__(self) -> None:
        if self.granularity not in GRANULARITIES:
            raise UsageError(f"recompute_granularity={self.granularity!r} must be one of {', '.join(GRANULARITIES)}")

    def of_layer(self, index: int) -> Optional[str]:
        """The granularity at which decoder layer `index` recomputes, or None."""
        if not self.enabled or index in self.no_recompute_layers or not self.interval or index % self.interval:
            return None
        return self.granularity


_policy = RecomputePolicy()


def recompute_policy() -> RecomputePolicy:
    """The policy of this run; nothing is recomputed until `set_recompute`."""
    return _policy


def set_recompute(policy: RecomputePolicy) -> None:
    """Make `policy` the one of this run."""
    global _policy
    _policy = policy


def recomputed(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)` whose inner activations are dropped and computed again when gradients are asked for.

    Random numbers drawn inside (dropout) are the same both times.
    """
    # Wrapped, since Paddle reads the signature and refuses the keyword-only arguments that `partial` leaves behind.
    return _recompute(lambda *inputs: function(*inputs), *args, use_reentrant=_policy.use_reentrant)
