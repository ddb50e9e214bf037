"""Learning-rate schedules: pure functions of the update number, and small scheduler classes over them.

A scheduler holds `last_epoch`, the number t of the update that comes next, and `last_lr`, the rate that update uses;
`step()` moves on to t + 1. Both numbers are its whole state.
"""

from __future__ import annotations

import math
from typing import Any, Callable, Dict

from paddle.optimizer.lr import LRScheduler

from paddlenlp.utils.errors import UsageError


def annealed_lr(
    t: float, max_lr: float, min_lr: float, warmup_step: float, decay_step: float, shape: Callable[[float], float]
) -> float:
    """Rate of update `t`: linear warm-up to `max_lr`, then `shape` down to `min_lr`, which it keeps.

    With r = (t - warmup_step) / (decay_step - warmup_step), the rate after the warm-up is
    min_lr + shape(r) * (max_lr - min_lr).

    Args:
        t: number of the update; the first of a run is 1.
        max_lr, min_lr: highest and final rate.
        warmup_step: updates of warm-up; may be a fraction.
        decay_step: last update of the decay.
        shape: falls from 1 at r = 0 to 0 at r = 1.
    """
    if warmup_step > 0 and t <= warmup_step:
        return max_lr * t / warmup_step
    if t > decay_step or decay_step <= warmup_step:
        return min_lr
    return min_lr + shape((t - warmup_step) / (decay_step - warmup_step)) * (max_lr - min_lr)


def cosine_shape(ratio: float) -> float:
    """Half a cosine wave from 1 to 0."""
    return 0.5 * (math.cos(math.pi * ratio) + 1.0)


def linear_shape(ratio: float) -> float:
    """A straight line from 1 to 0."""
    return 1.0 - ratio


class _Annealing(LRScheduler):
    """Base of the annealing schedulers; `shape` is what tells them apart."""

    shape: Callable[[float], float]

    def __init__(
        self,
        max_lr: float,
        min_lr: float,
        warmup_step: float,
        decay_step: float,
        last_epoch: int = -1,
        verbose: bool = False,
    ) -> None:
        self.min_lr = min_lr
        self.warmup_step = warmup_step
        self.decay_step = decay_step
        super().__init__(max_lr, last_epoch, verbose)

    def get_lr(self) -> float:
        """Rate of update `last_epoch`."""
        return annealed_lr(
            self.last_epoch, self.base_lr, self.min_lr, self.warmup_step, self.decay_step, type(self).shape
        )


class CosineAnnealingWithWarmupDecay(_Annealing):
    """Warm-up to `max_lr`, half a cosine down to `min_lr` at `decay_step`; last_epoch=0 begins with update t = 1."""

    shape = staticmethod(cosine_shape)


class LinearAnnealingWithWarmupDecay(_Annealing):
    """Warm-up to `max_lr`, a line down to `min_lr` at `decay_step`; last_epoch=0 begins with update t = 1."""

    shape = staticmethod(linear_shape)


def linear_factor(t: float, warmup: float, total: int) -> float:
    """Warm-up to 1, then a line to 0 at update `total`."""
    if t < warmup:
        return t / max(1.0, warmup)
    return max(0.0, (total - t) / max(1.0, total - warmup))


def cosine_factor(t: float, warmup: float, total: int, num_cycles: float = 0.5) -> float:
    """Warm-up to 1, then `num_cycles` waves of a cosine, never below 0."""
    if t < warmup:
        return t / max(1.0, warmup)
    progress = (t - warmup) / max(1.0, total - warmup)
    return max(0.0, 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * progress)))


def constant_factor(t: float) -> float:
    """Always 1."""
    return 1.0


def constant_with_warmup_factor(t: float, warmup: float) -> float:
    """Warm-up to 1, then 1."""
    return t / max(1.0, warmup) if t < warmup else 1.0


def polynomial_factor(
    t: float, warmup: float, total: int, learning_rate: float, lr_end: float = 1e-7, power: float = 1.0
) -> float:
    """Warm-up to 1, then down to `lr_end / learning_rate` at update `total` as the `power` of what remains."""
    if t < warmup:
        return t / max(1.0, warmup)
    if t > total:
        return lr_end / learning_rate
    remaining = 1.0 - (t - warmup) / max(1.0, total - warmup)
    return ((learning_rate - lr_end) * remaining**power + lr_end) / learning_rate


class FactorScheduler(LRScheduler):
    """`learning_rate * factor(t)`; the first update is t = 0."""

    def __init__(self, learning_rate: float, factor: Callable[[float], float], last_epoch: int = -1) -> None:
        self.factor = factor
        super().__init__(learning_rate, last_epoch)

    def get_lr(self) -> float:
        """Rate of update `last_epoch`."""
        return self.base_lr * self.factor(self.last_epoch)


def get_scheduler(
    name: str,
    learning_rate: float,
    num_warmup_steps: float = 0,
    num_training_steps: int = 0,
    num_cycles: float = 0.5,
    lr_end: float = 1e-7,
    power: float = 1.0,
) -> LRScheduler:
    """A scheduler that decays to 0 (polynomial: to `lr_end`), by the name of `lr_scheduler_type`.

    Raises:
        UsageError: no schedule has this name, or polynomial's `lr_end` is not below `learning_rate`.
    """
    warmup, total = num_warmup_steps, num_training_steps
    if name == "polynomial" and lr_end >= learning_rate:
        raise UsageError(f"lr_scheduler_type polynomial needs lr_end ({lr_end}) below learning_rate ({learning_rate}).")
    factors: Dict[str, Callable[[float], float]] = {
        "linear": lambda t: linear_factor(t, warmup, total),
        "cosine": lambda t: cosine_factor(t, warmup, total, num_cycles),
        "constant": constant_factor,
        "constant_with_warmup": lambda t: constant_with_warmup_factor(t, warmup),
        "polynomial": lambda t: polynomial_factor(t, warmup, total, learning_rate, lr_end, power),
    }
    if name not in factors:
        raise UsageError(f"lr_scheduler_type is {name!r}; known: {', '.join(factors)}.")
    return FactorScheduler(learning_rate, factors[name])


def build_lr_scheduler(args: Any) -> LRScheduler:
    """The scheduler of a pretraining run: "cosine" and "linear" anneal to `min_learning_rate`, the rest are generic.

    Args:
        args: `PreTrainingArguments`; `decay_steps` defaults to `max_steps`, `warmup_ratio` is a share of `max_steps`.
    """
    kinds = {"cosine": CosineAnnealingWithWarmupDecay, "linear": LinearAnnealingWithWarmupDecay}
    kind, warmup = kinds.get(args.lr_scheduler_type), args.warmup()
    if kind is not None:
        return kind(args.learning_rate, args.min_learning_rate, warmup, args.effective_decay_steps, last_epoch=0)
    return get_scheduler(
        args.lr_scheduler_type,
        args.learning_rate,
        warmup,
        args.effective_max_steps,
        args.num_cycles,
        args.lr_end,
        args.power,
    )
