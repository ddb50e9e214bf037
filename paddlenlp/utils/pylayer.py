"""What every operation that has its own backward pass (a PyLayer) must mind.

- It saves tensors with `save`: Paddle's recompute without reentrance hands saved ones on without their strides, so that
  a transposed view would come back as other numbers.
- It gives None as the gradient of an input that needs none, because what it comes from is not trained: `note_frozen`,
  `needed`.
- It returns none of its inputs, and changes none in place. Beware of `x.contiguous()`, which gives `x` itself, with a
  copy in the place of the view: `clone` always gives a copy, in one piece.
"""

from __future__ import annotations

from typing import Any, Sequence, Tuple

from paddle import Tensor


def save(ctx: Any, *tensors: Tensor) -> None:
    """Save tensors for the backward pass, which reads `ctx.saved_tensor()`, once."""
    ctx.save_for_backward(*(x if x.is_contiguous() else x.clone() for x in tensors))


def note_frozen(ctx: Any, *inputs: Tensor) -> None:
    """Remember, in the forward pass, which of its tensors need a gradient."""
    ctx.needed = [not x.stop_gradient for x in inputs]


def needed(ctx: Any, grads: Sequence[Tensor]) -> Tuple[Any, ...]:
    """The gradients of its tensors in the same order, None for those that need none."""
    return tuple(grad if need else None for grad, need in zip(grads, ctx.needed))
