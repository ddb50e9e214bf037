"""Learning-rate schedules against the formulas, written out again here."""

from __future__ import annotations

import math

import pytest

from paddlenlp.trainer.pretraining_args import PreTrainingArguments
from paddlenlp.transformers import optimization as opt
from paddlenlp.utils.errors import UsageError


def rates(scheduler, updates):
    seen = []
    for _ in range(updates):
        seen.append(scheduler())
        scheduler.step()
    return seen


def expected_annealing(t, max_lr, min_lr, warmup, decay, kind):
    if warmup > 0 and t <= warmup:
        return max_lr * t / warmup
    if t > decay:
        return min_lr
    ratio = (t - warmup) / (decay - warmup)
    coefficient = 0.5 * (math.cos(math.pi * ratio) + 1) if kind == "cosine" else 1 - ratio
    return min_lr + coefficient * (max_lr - min_lr)


@pytest.mark.parametrize("kind", ["cosine", "linear"])
@pytest.mark.parametrize("warmup", [0, 3, 2.5])
def test_annealing_is_exact(kind, warmup):
    cls = {"cosine": opt.CosineAnnealingWithWarmupDecay, "linear": opt.LinearAnnealingWithWarmupDecay}[kind]
    seen = rates(cls(3e-4, 3e-5, warmup, 10, last_epoch=0), 14)
    assert seen == [expected_annealing(t, 3e-4, 3e-5, warmup, 10, kind) for t in range(1, 15)]
    assert seen[-1] == 3e-5 and max(seen) <= 3e-4


def test_default_last_epoch_starts_at_zero():
    assert opt.CosineAnnealingWithWarmupDecay(1.0, 0.1, 4, 8)() == 0.0
    assert opt.LinearAnnealingWithWarmupDecay(1.0, 0.1, 4, 8, last_epoch=0)() == 0.25


def test_decay_no_longer_than_warmup_has_no_division_by_zero():
    assert rates(opt.CosineAnnealingWithWarmupDecay(1.0, 0.5, 2, 2, last_epoch=0), 4) == [0.5, 1.0, 0.5, 0.5]


GENERIC = {
    "linear": lambda t: t / 2 if t < 2 else (8 - t) / 6,
    "cosine": lambda t: t / 2 if t < 2 else max(0.0, 0.5 * (1 + math.cos(math.pi * 2 * 1.5 * (t - 2) / 6))),
    "constant": lambda t: 1.0,
    "constant_with_warmup": lambda t: t / 2 if t < 2 else 1.0,
    "polynomial": lambda t: t / 2 if t < 2 else ((1.0 - 0.1) * (1 - (t - 2) / 6) ** 2 + 0.1),
}


@pytest.mark.parametrize("name", list(GENERIC))
def test_generic_schedules(name):
    scheduler = opt.get_scheduler(name, 1.0, 2, 8, num_cycles=1.5, lr_end=0.1, power=2.0)
    assert rates(scheduler, 8) == pytest.approx([GENERIC[name](t) for t in range(8)], abs=1e-12)


def test_after_the_end():
    assert opt.linear_factor(9, 2, 8) == 0.0
    assert opt.polynomial_factor(9, 2, 8, 1.0, 0.1, 2.0) == 0.1


def test_unknown_or_senseless_schedule_is_refused():
    with pytest.raises(UsageError, match="cosinus.*known: linear, cosine"):
        opt.get_scheduler("cosinus", 1.0)
    with pytest.raises(UsageError, match="lr_end"):
        opt.get_scheduler("polynomial", 1e-8, 0, 10, lr_end=1e-7)


def arguments(**changes):
    values = dict(lr_scheduler_type="cosine", learning_rate=1.0, min_learning_rate=0.1, warmup_ratio=0.25, max_steps=10)
    return PreTrainingArguments(output_dir="unused", **{**values, **changes})


def test_a_run_anneals_from_t_equal_one_with_an_unrounded_warmup():
    scheduler = opt.build_lr_scheduler(arguments())
    assert isinstance(scheduler, opt.CosineAnnealingWithWarmupDecay)
    assert rates(scheduler, 10) == [expected_annealing(t, 1.0, 0.1, 2.5, 10, "cosine") for t in range(1, 11)]


def test_the_arguments_choose_schedule_warmup_and_decay():
    linear = opt.build_lr_scheduler(arguments(lr_scheduler_type="linear", warmup_steps=4, decay_steps=6))
    assert isinstance(linear, opt.LinearAnnealingWithWarmupDecay)
    assert rates(linear, 7) == [expected_annealing(t, 1.0, 0.1, 4, 6, "linear") for t in range(1, 8)]
    constant = opt.build_lr_scheduler(arguments(lr_scheduler_type="constant_with_warmup", warmup_steps=2))
    assert rates(constant, 4) == [0.0, 0.5, 1.0, 1.0]
    poly = opt.build_lr_scheduler(arguments(lr_scheduler_type="polynomial", warmup_ratio=0.0, lr_end=0.5, power=2.0))
    assert rates(poly, 11)[-1] == 0.5


def test_state_is_two_numbers_and_restores_the_position():
    first = opt.build_lr_scheduler(arguments())
    rates(first, 5)
    state = first.state_dict()
    assert state == {"last_epoch": 6, "last_lr": first.last_lr}
    second = opt.build_lr_scheduler(arguments())
    second.set_state_dict(state)
    assert rates(second, 5) == rates(first, 5)
