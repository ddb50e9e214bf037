"""Recompute: the same loss and gradients, fewer activations kept, and only in the layers asked for."""

from __future__ import annotations

import gc

import numpy as np
import paddle
import pytest

import paddlenlp.nn.recompute as recompute_module
from paddlenlp.nn import RecomputePolicy, kernels, set_recompute
from paddlenlp.utils.errors import UsageError

REENTRANT = pytest.mark.parametrize("reentrant", [False, True], ids=["recorded", "reentrant"])


def step(model, batch):
    paddle.seed(3)
    loss = float(model.train_batch([batch]))
    return loss, {name: param.grad.numpy() for name, param in model.named_parameters()}


@pytest.fixture
def calls(monkeypatch):
    """How often attention was computed."""
    count = []
    attention = kernels.attention
    monkeypatch.setattr(kernels, "attention", lambda *args, **kwargs: count.append(1) or attention(*args, **kwargs))
    return count


@REENTRANT
@pytest.mark.parametrize("granularity", ["full", "full_attn", "core_attn"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_results_are_those_without_it(build, batch, calls, granularity, reentrant, dropout):
    model = build(attention_dropout=dropout)
    loss, expected = step(model, batch)
    assert len(calls) == 3
    model.clear_gradients()
    set_recompute(RecomputePolicy(True, granularity, use_reentrant=reentrant))
    again, found = step(model, batch)
    assert len(calls) == 3 + 6
    assert again == loss
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("policy", "twice"),
    [
        (RecomputePolicy(True, "full", no_recompute_layers=(0, 2)), 1),
        (RecomputePolicy(True, "core_attn", no_recompute_layers=(1,)), 2),
        (RecomputePolicy(True, "full_attn", interval=2), 2),
        (RecomputePolicy(True, "full", interval=3), 1),
        (RecomputePolicy(True, "full", interval=0), 0),
        (RecomputePolicy(False, "full"), 0),
    ],
)
def test_only_the_layers_asked_for(build, batch, calls, policy, twice):
    set_recompute(policy)
    step(build(), batch)
    assert len(calls) == 3 + twice


@REENTRANT
def test_the_mode_asked_for(build, batch, monkeypatch, reentrant):
    modes, function = [], recompute_module._recompute
    monkeypatch.setattr(
        recompute_module, "_recompute", lambda *args, **kwargs: modes.append(kwargs) or function(*args, **kwargs)
    )
    set_recompute(RecomputePolicy(True, "full", use_reentrant=reentrant))
    step(build(), batch)
    assert modes == [{"use_reentrant": reentrant}] * 3


def test_evaluation_recomputes_nothing(build, batch, calls):
    set_recompute(RecomputePolicy(True, "full"))
    model = build()
    model.eval()
    model(**batch).backward()
    assert len(calls) == 3


def live_bytes(build, policy):
    """Bytes that one forward pass keeps for the backward pass."""
    set_recompute(policy)
    model = build(hidden_size=64, intermediate_size=256, num_hidden_layers=4)
    ids = paddle.ones([4, 64], "int64")
    gc.collect()
    before = paddle.base.core.host_memory_stat_current_value("Allocated", 0)
    loss = model(ids, ids)
    kept = paddle.base.core.host_memory_stat_current_value("Allocated", 0) - before
    loss.backward()
    return kept


@REENTRANT
def test_fewer_bytes_are_kept(build, reentrant):
    nothing = live_bytes(build, RecomputePolicy())
    kept = {
        granularity: live_bytes(build, RecomputePolicy(True, granularity, use_reentrant=reentrant))
        for granularity in ("full", "full_attn", "core_attn")
    }
    assert kept["full"] < kept["full_attn"] < kept["core_attn"] < nothing
    assert kept["full"] < nothing / 3


def test_unknown_granularity_is_refused():
    with pytest.raises(UsageError, match="'most'.*full, full_attn, core_attn"):
        RecomputePolicy(True, "most")
