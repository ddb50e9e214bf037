"""Low-precision runs on a CPU: dtypes of storage, results and gradients, and that they train."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddlenlp.nn import Precision, configure_run, set_precision
from paddlenlp.nn.precision import GradientSums, precision
from paddlenlp.nn.recompute import RecomputePolicy, recompute_policy
from paddlenlp.nn.run_options import precision_of
from paddlenlp.parallel import random

LOW = pytest.mark.parametrize("low", ["bfloat16", "float16"])
LEVEL = pytest.mark.parametrize("level", ["O1", "O2"])


def policy(low, level, grad="float32"):
    return Precision("float32" if level == "O1" else low, low, grad, emulated=True)


def on_grid(x, low):
    return bool((x.astype(low).astype("float32") == x.astype("float32")).all())


@pytest.mark.parametrize(
    ("dtype", "amp_dtype", "master_grad", "expected"),
    [
        ("float32", None, False, Precision()),
        ("float32", "bfloat16", False, Precision("float32", "bfloat16", "float32", True)),
        ("bfloat16", "bfloat16", False, Precision("bfloat16", "bfloat16", "bfloat16", True)),
        ("bfloat16", "bfloat16", True, Precision("bfloat16", "bfloat16", "float32", True)),
        ("float16", "float16", False, Precision("float16", "float16", "float16", True)),
    ],
)
def test_policy_of_the_arguments(dtype, amp_dtype, master_grad, expected):
    args = SimpleNamespace(dtype=dtype, amp_dtype=amp_dtype, amp_master_grad=master_grad)
    assert precision_of(args) == expected


def test_configure_run_sets_every_policy():
    args = SimpleNamespace(
        dtype="bfloat16",
        amp_dtype="bfloat16",
        amp_master_grad=True,
        recompute=True,
        recompute_granularity="core_attn",
        no_recompute_layers=[3, 1],
        pp_recompute_interval=2,
        recompute_use_reentrant=True,
        partial_send_recv=True,
        pipeline_chunks=1,
        expert_max_capacity=None,
        expert_min_capacity=1,
        seed=11,
        use_flash_attention=False,
        use_fused_rms_norm=False,
        use_fused_rope=False,
        use_fused_linear=False,
        use_fused_dropout_add=False,
        use_fused_linear_cross_entropy=False,
    )
    try:
        configure_run(args)
        assert precision() == Precision("bfloat16", "bfloat16", "float32", True)
        assert recompute_policy() == RecomputePolicy(True, "core_attn", (3, 1), 2, True)
        assert random.init_seed("w") == (random.set_init_seed(11), random.init_seed("w"))[1]
    finally:
        random.set_init_seed(random.DEFAULT_SEED)


@LOW
@LEVEL
@pytest.mark.parametrize("tied", [False, True])
def test_results_lie_on_the_grid_near_those_of_float32(build, batch, low, level, tied):
    exact = build(tie_word_embeddings=tied)(batch["input_ids"])
    set_precision(policy(low, level))
    model = build(dtype=precision().storage, tie_word_embeddings=tied)
    assert all(param.dtype == getattr(paddle, precision().storage) for param in model.parameters())
    logits = model(batch["input_ids"])
    assert logits.dtype == paddle.float32 and on_grid(logits, low) and not on_grid(exact, low)
    error = float((logits - exact).abs().max() / exact.abs().max())
    assert 1e-5 < error < 0.05


@LOW
@LEVEL
@pytest.mark.parametrize("tied", [False, True])
def test_gradients_are_near_those_of_float32(build, batch, low, level, tied):
    exact = build(tie_word_embeddings=tied)
    exact.train_batch([batch])
    set_precision(policy(low, level))
    model = build(dtype=precision().storage, tie_word_embeddings=tied)
    model.train_batch([batch], scale=256.0)
    for (name, found), expected in zip(model.named_parameters(), exact.parameters()):
        assert found.grad.dtype == paddle.float32
        error = float((found.grad / 256 - expected.grad).norm() / expected.grad.norm())
        assert error < 0.1, name


@LOW
def test_gradient_dtype_is_the_policy_s(build, batch, low):
    halves = [{name: value[rows] for name, value in batch.items()} for rows in (slice(2), slice(2, 4))]
    found = {}
    for grad in (low, "float32"):
        set_precision(policy(low, "O2", grad))
        model = build(dtype=low)
        model.train_batch(halves)
        assert all(param.grad.dtype == getattr(paddle, grad) for param in model.parameters())
        found[grad] = model.lm_head.weight.grad.astype("float32")
    assert on_grid(found[low], low) and not on_grid(found["float32"], low)


def test_steps_add_to_the_gradients_that_are_there(build, batch):
    set_precision(policy("bfloat16", "O2"))
    once, twice = build(dtype="bfloat16"), build(dtype="bfloat16")
    once.train_batch([batch])
    twice.train_batch([batch])
    twice.train_batch([batch])
    for a, b in zip(once.parameters(), twice.parameters()):
        np.testing.assert_array_equal(2 * a.grad.numpy(), b.grad.numpy())


def test_small_terms_are_not_lost():
    set_precision(policy("bfloat16", "O2"))
    param = paddle.create_parameter([1], "bfloat16", default_initializer=paddle.nn.initializer.Constant(1.0))
    sums = GradientSums([param])
    for _ in range(64):
        (param.astype("float32") * (1 + 2**-9)).sum().backward()
        sums.add()
    sums.finish()
    assert param.grad.tolist() == [64]
    param.grad = None
    sums = GradientSums([param])
    for factor in [1.0] + [2**-9] * 64:
        (param.astype("float32") * factor).sum().backward()
        sums.add()
    sums.finish()
    assert param.grad.tolist() == [1 + 64 * 2**-9]


@LOW
@LEVEL
@pytest.mark.parametrize("grad", ["storage", "float32"])
def test_a_low_precision_run_learns(build, batch, low, level, grad):
    """Plain gradient descent on float32 copies of the parameters, which the model sees rounded."""
    set_precision(policy(low, level, "float32" if level == "O1" or grad == "float32" else low))
    model = build(dtype=precision().storage, initializer_range=0.05)
    masters = [param.astype("float32").detach() for param in model.parameters()]
    losses = []
    for _ in range(30):
        losses.append(float(model.train_batch([batch], scale=16.0)))
        for param, master in zip(model.parameters(), masters):
            master.subtract_(param.grad.astype("float32") * (0.8 / 16))
            param.set_value(master.astype(param.dtype))
        model.clear_gradients(set_to_zero=False)
    assert losses[0] == pytest.approx(np.log(83), rel=0.05) and losses[-1] < 0.8 * losses[0]
