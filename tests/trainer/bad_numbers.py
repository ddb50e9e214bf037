"""Makes the numbers of a training step bad, in one place of it."""

from __future__ import annotations

from typing import Any

import paddle

SPOILT = "llama.layers.1.mlp.down_proj.weight"
NAN = float("nan")


class Wrapped:
    """Something around `train_batch`: `before` and `after` (which may change the loss) of its call number `call`."""

    def __init__(self, model: Any, call: int) -> None:
        self.real, self.calls, self.call = model.train_batch, 0, call
        model.train_batch = self

    def __call__(self, *given: Any) -> Any:
        self.calls += 1
        if self.calls == self.call:
            self.before()
        loss = self.real(*given)
        return self.after(loss) if self.calls == self.call else loss

    def before(self) -> None:
        pass

    def after(self, loss: Any) -> Any:
        return loss


class BadLoss(Wrapped):
    """The loss that comes back is worse by a factor."""

    def __init__(self, model: Any, call: int, factor: float = NAN) -> None:
        super().__init__(model, call)
        self.factor = factor

    def after(self, loss: Any) -> Any:
        return loss * self.factor


class BadGradient(Wrapped):
    """The gradient of one parameter is spoilt where the backward pass leaves it."""

    def __init__(self, model: Any, call: int) -> None:
        super().__init__(model, call)
        self.on = False
        spoilt = dict(model.named_parameters()).get(SPOILT)
        if spoilt is not None:
            spoilt.register_hook(lambda grad: self.spoil(spoilt, grad) if self.on else grad)

    @staticmethod
    def spoil(param: Any, grad: Any) -> Any:
        """There is no gradient where the product that made it has added it to the sum of the step."""
        if grad is not None:
            return grad * NAN
        param.gradient_sum().scale_(NAN)
        return None

    def before(self) -> None:
        self.on = True

    def after(self, loss: Any) -> Any:
        self.on = False
        return loss


class BadWeight(Wrapped):
    """An element of a weight turns into nonsense in memory: of what this rank updates, which is all that exists between
    uses under sharding stage 3."""

    def __init__(self, model: Any, call: int) -> None:
        super().__init__(model, call)
        self.model = model

    @paddle.no_grad()
    def before(self) -> None:
        for piece in self.model.gradients.pieces:
            if piece.name == SPOILT:
                flat = piece.weight.flatten()
                flat[5] = NAN
                paddle.assign(flat.reshape(piece.weight.shape), output=piece.weight)
