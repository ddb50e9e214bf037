"""The chooser: which kernels run, what it reports, and that results follow the precision policy."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from types import SimpleNamespace

import fake_external
import numpy as np
import paddle
import pytest

from paddlenlp.nn import cpu, gpu, kernels, plain
from paddlenlp.nn.offers import State
from paddlenlp.nn.precision import Precision, set_precision
from paddlenlp.trainer.pretraining_args import ModelArguments
from paddlenlp.trainer.training_args import TrainingArguments
from paddlenlp.utils.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _restore():
    paddle.seed(3)
    yield
    set_precision(Precision())
    kernels.configure()


def sound(offers, device):
    """What `judge` would say if every operation were there and right."""
    return [State(offer.op, offer.module or "Paddle", True, True, True, False, "") for offer in offers]


def on_gpu(monkeypatch, judge=sound, **flags):
    monkeypatch.setattr(kernels.paddle, "get_device", lambda: "gpu:0")
    monkeypatch.setattr(kernels, "judge", judge)
    kernels.configure(SimpleNamespace(**flags))


def test_a_cpu_gets_the_cpu_kernels():
    kernels.configure()
    for name, kernel in cpu.kernels().items():
        assert kernels._chosen[name] is kernel
    assert set(kernels._chosen) == set(plain.KERNELS)
    assert kernels.report() == kernels.states() == []


@pytest.mark.parametrize("flag", sorted(kernels.FLAGS))
def test_true_without_external_ops_gives_one_line_and_the_toolkits_own_operations(monkeypatch, tmp_path, flag):
    fake_external.install(monkeypatch, tmp_path)
    kernels.configure(SimpleNamespace(**{flag: True}))
    (line,) = kernels.report()
    assert " instead" in line and ", because " in line
    for name in kernels.FLAGS[flag]:
        assert name in line
        assert kernels._chosen[name] is cpu.kernels().get(name, getattr(plain, name))


def test_auto_without_external_ops_gives_one_line_in_all(monkeypatch, tmp_path):
    fake_external.install(monkeypatch, tmp_path)
    kernels.configure(TrainingArguments("unused"), ModelArguments("unused"))
    (line,) = kernels.report()
    assert line.endswith(kernels.ABSENT) and "rms_norm" in line and "adamw" in line
    assert {state.built for state in kernels.states()} == {False}


def test_a_cost_that_has_been_measured_is_said(monkeypatch, tmp_path):
    fake_external.install(monkeypatch, tmp_path)
    monkeypatch.setitem(kernels.COSTS, "all", 1.5)
    kernels.configure(TrainingArguments("unused"))
    assert kernels.report()[0].endswith("; a training step on a CPU takes about 1.50 times as long")


def test_costs_are_those_of_the_ablation():
    path = ROOT / "benchmarks/cpu/results/ablation-a.json"
    ratios = json.loads(path.read_text(encoding="utf-8"))["ratios"] if path.exists() else {}
    assert {op: round(ratios[op], 2) for op in kernels.COSTS} == kernels.COSTS


def test_any_of_the_arguments_may_ask(monkeypatch, tmp_path):
    fake_external.install(monkeypatch, tmp_path)
    kernels.configure(SimpleNamespace(use_fused_rope=True), SimpleNamespace(use_fast_layer_norm=True), None)
    assert {"rotate", "layer_norm", "rms_norm"} == set(kernels.report()[0].partition(":")[0].split(", "))


@pytest.mark.parametrize("flag", sorted(kernels.FLAGS))
def test_require_refuses_a_run_without_the_operation(monkeypatch, tmp_path, flag):
    fake_external.install(monkeypatch, tmp_path)
    with pytest.raises(UsageError, match=rf"{flag} is require, but there is no fused (.|\n)*Set the flag to auto"):
        kernels.configure(SimpleNamespace(**{flag: "require"}))


def test_another_word_is_refused():
    with pytest.raises(UsageError, match="use_fused_rope must be one of auto, true, false, require; found 'maybe'"):
        kernels.configure(SimpleNamespace(use_fused_rope="maybe"))


def test_without_flags_a_gpu_gets_the_plain_kernels_but_for_those_that_always_run(monkeypatch):
    on_gpu(monkeypatch)
    for name in plain.KERNELS:
        assert kernels._chosen[name] is gpu.ALWAYS.get(name, getattr(plain, name))


def test_a_gpu_gets_external_operations_before_paddles(monkeypatch):
    on_gpu(monkeypatch, **dict.fromkeys(kernels.FLAGS, "auto"))
    modules = {state.op: state.module for state in kernels.states() if state.used}
    assert modules["attention"] == modules["linear"] == "Paddle" and modules["rms_norm"] == "fused_ln"
    assert kernels._chosen["attention"] is gpu.attention
    on_gpu(monkeypatch, use_fast_layer_norm=True)
    assert {state.op: state.module for state in kernels.states() if state.used} == {
        "rms_norm": "fast_ln",
        "layer_norm": "fast_ln",
    }


def test_a_gpu_without_external_ops_gets_paddles_fused_operations(monkeypatch):
    def judge(offers, device):
        return [state._replace(agrees=state.module == "Paddle") for state in sound(offers, device)]

    on_gpu(monkeypatch, judge, **dict.fromkeys(kernels.FLAGS, "auto"))
    for name in ("attention", "rms_norm", "rotate", "linear"):
        assert kernels._chosen[name] is getattr(gpu, name)
    on_gpu(monkeypatch, judge, use_fused_rope="require")
    assert kernels._chosen["rotate"] is gpu.rotate


def test_independent_parts_run_at_once_on_a_cpu_only(monkeypatch):
    monkeypatch.setattr(cpu.threads, "count", lambda: 2)
    here = threading.get_ident()
    kernels.configure()
    assert here not in kernels.each(lambda part: threading.get_ident(), [1, 2])
    on_gpu(monkeypatch)
    assert kernels.each(lambda part: (part, threading.get_ident()), [1, 2]) == [(1, here), (2, here)]


def test_parts_run_in_turn_where_the_operation_takes_all_threads(monkeypatch):
    monkeypatch.setattr(cpu.threads, "count", lambda: 2)
    monkeypatch.setattr(kernels, "judge", sound)
    kernels.configure(SimpleNamespace(use_fused_adamw="auto"))
    here = threading.get_ident()
    assert kernels.each(lambda part: threading.get_ident(), [1, 2], by="adamw") == [here, here]
    assert here not in kernels.each(lambda part: threading.get_ident(), [1, 2])


def test_flash_attention_gets_our_layout(monkeypatch):
    seen = {}

    def flash(q, k, v, **options):
        seen.update(options, shapes=(q.shape, k.shape))
        return q * 2, None

    monkeypatch.setattr(gpu.F.flash_attention, "flash_attention", flash)
    q, k = paddle.randn([1, 5, 4, 8]).astype("bfloat16"), paddle.randn([1, 5, 2, 8]).astype("bfloat16")
    y = gpu.attention(q, k, k, scale=0.3, dropout=0.1)
    assert y.shape == [1, 5, 4, 8]
    assert seen == {"dropout": 0.1, "causal": True, "softmax_scale": 0.3, "shapes": ([1, 5, 4, 8], [1, 5, 2, 8])}


def test_flash_attention_gets_values_as_wide_as_keys(monkeypatch):
    def flash(q, k, v, dropout, causal, softmax_scale):
        return plain.attention(*(x.astype("float32") for x in (q, k, v)), scale=softmax_scale), None

    monkeypatch.setattr(gpu.F.flash_attention, "flash_attention", flash)
    q, v = paddle.randn([1, 5, 2, 8]).astype("bfloat16"), paddle.randn([1, 5, 2, 6]).astype("bfloat16")
    y = gpu.attention(q, q, v)
    assert y.shape == [1, 5, 2, 6]
    np.testing.assert_allclose(y, plain.attention(*(x.astype("float32") for x in (q, q, v))), rtol=1e-5, atol=1e-6)


def test_flash_attention_leaves_float32_and_masks_to_the_plain_version():
    q = paddle.randn([1, 5, 2, 8])
    mask = paddle.to_tensor([[1, 1, 0, 1, 1]])
    np.testing.assert_array_equal(gpu.attention(q, q, q).numpy(), plain.attention(q, q, q).numpy())
    np.testing.assert_array_equal(gpu.attention(q, q, q, mask=mask), plain.attention(q, q, q, mask=mask))


def test_fused_norm_gets_the_weight_with_its_offset(monkeypatch):
    from paddle.incubate.nn import functional

    def fused(x, weight, bias, eps, begin_norm_axis):
        assert bias is None and begin_norm_axis == 1
        return plain.rms_norm(x, weight, eps), None

    monkeypatch.setattr(functional, "fused_rms_norm", fused)
    x, w = paddle.randn([4, 6]), paddle.randn([6])
    np.testing.assert_allclose(gpu.rms_norm(x, w, 1e-5, 1.0), plain.rms_norm(x, w, 1e-5, 1.0), rtol=1e-6)


@pytest.mark.parametrize("interleaved", [False, True])
def test_fused_rope_gets_one_angle_for_each_feature(monkeypatch, interleaved):
    """Paddle's operation multiplies each feature with the cosine at its own place."""
    from paddle.incubate.nn import functional

    def fused(q, sin, cos, use_neox_rotary_style):
        assert use_neox_rotary_style is interleaved and cos.shape == [1, 5, 1, 8]
        if interleaved:
            turned = paddle.stack([-q[..., 1::2], q[..., ::2]], -1).flatten(-2)
        else:
            turned = paddle.concat([-q[..., 4:], q[..., :4]], -1)
        return q * cos + turned * sin, None, None

    monkeypatch.setattr(functional, "fused_rotary_position_embedding", fused)
    angles, x = paddle.randn([1, 5, 1, 4]), paddle.randn([2, 5, 3, 8])
    cos, sin = paddle.cos(angles), paddle.sin(angles)
    wanted = plain.rotate(x, cos, sin, interleaved)
    np.testing.assert_allclose(gpu.rotate(x, cos, sin, interleaved), wanted, rtol=1e-5, atol=1e-6)


def test_fused_linear(monkeypatch):
    from paddle.incubate.nn import functional

    monkeypatch.setattr(functional, "fused_linear", lambda x, w, b: paddle.matmul(x, w) + b + 100)
    x, w, b = paddle.randn([2, 3]), paddle.randn([3, 4]), paddle.randn([4])
    np.testing.assert_allclose(gpu.linear(x, w, b), plain.linear(x, w, b) + 100, rtol=1e-6)
    np.testing.assert_array_equal(gpu.linear(x, w), plain.linear(x, w))


def test_gpu_kernels_that_always_run_equal_the_plain_ones():
    gate, up, labels = paddle.randn([4, 6]), paddle.randn([4, 6]), paddle.to_tensor([1, -100, 5, 0])
    np.testing.assert_allclose(gpu.swiglu(gate, up), plain.swiglu(gate, up), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(gpu.cross_entropy(gate, labels), plain.cross_entropy(gate, labels), rtol=1e-5, atol=1e-6)
    weight = paddle.randn([6, 9])
    np.testing.assert_allclose(
        gpu.head_loss(gate, weight, labels), plain.head_loss(gate, weight, labels), rtol=1e-5, atol=1e-6
    )


def numpy_attention(q, k, v, allowed, bias=0.0):
    """By the definition, in float64, one key head for each query head."""
    repeat = q.shape[2] // k.shape[2]
    k, v = np.repeat(k, repeat, 2), np.repeat(v, repeat, 2)
    scores = np.einsum("bshd,bthd->bhst", q, k) / np.sqrt(q.shape[-1]) + bias
    e = np.exp(scores) * allowed
    total = e.sum(-1, keepdims=True)
    return np.einsum("bhst,bthd->bshd", e / np.where(total == 0, 1, total), v)


def test_attention_by_definition():
    """Causal rule, grouped heads, masks, bias, window and cached keys, against float64."""
    random = np.random.RandomState(0)
    q, k, v = random.randn(2, 4, 4, 8), random.randn(2, 6, 2, 8), random.randn(2, 6, 2, 5)
    causal = np.tril(np.ones((4, 6)), 2)
    keys = np.array([[0, 1, 1, 1, 0, 1], [1, 1, 1, 1, 1, 1]])
    free = random.rand(2, 1, 4, 6) > 0.4
    free[0, 0, 1] = False
    bias = random.randn(1, 4, 4, 6)
    near = causal * (1 - np.tril(np.ones((4, 6)), -1))
    cases = [
        ({}, causal, 0.0),
        ({"mask": paddle.to_tensor(keys)}, causal * keys[:, None, None], 0.0),
        ({"mask": paddle.to_tensor(free)}, free, 0.0),
        ({"bias": paddle.to_tensor(bias, "float32")}, causal, bias),
        ({"window": 3}, near, 0.0),
        ({"window": 3, "mask": paddle.to_tensor(keys)}, near * keys[:, None, None], 0.0),
    ]
    tensors = [paddle.to_tensor(x, "float32") for x in (q, k, v)]
    for options, allowed, added in cases:
        y = kernels.attention(*tensors, **options)
        np.testing.assert_allclose(y.numpy(), numpy_attention(q, k, v, allowed, added), atol=2e-6)


def test_a_query_without_keys_gives_zeros_and_finite_gradients():
    q = paddle.randn([1, 3, 1, 4])
    q.stop_gradient = False
    y = kernels.attention(q, q, q, mask=paddle.to_tensor([[0, 0, 1]]))
    y.sum().backward()
    assert (y.numpy()[0, :2] == 0).all() and (y.numpy()[0, 2] != 0).any()
    assert np.isfinite(q.grad.numpy()).all()


def test_attention_dropout_keeps_the_mean():
    q = paddle.zeros([1, 64, 2, 4])
    v = paddle.ones([1, 64, 2, 4])
    y = kernels.attention(q, q, v, dropout=0.5)
    assert len(np.unique(y.numpy().round(4))) > 10
    assert abs(float(y.mean()) - 1) < 0.2


def test_linear_brings_both_sides_to_the_compute_dtype():
    set_precision(Precision("float32", "bfloat16", "float32", emulated=True))
    x, w = paddle.randn([4, 8]), paddle.randn([8, 8])
    y = kernels.linear(x, w, paddle.randn([8]))
    grid = [t.astype("bfloat16").astype("float32") for t in (x, w, y)]
    assert y.dtype == paddle.float32
    np.testing.assert_array_equal(y.numpy(), grid[2].numpy())
    product = paddle.matmul(grid[0], grid[1]).astype("bfloat16").astype("float32")
    np.testing.assert_array_equal(kernels.linear(x, w).numpy(), product.numpy())


def results_of_low_precision_weights():
    x, w = paddle.randn([1, 4, 2, 8]), paddle.randn([8]).astype("bfloat16")
    table, angles = paddle.randn([9, 8]).astype("bfloat16"), paddle.randn([1, 4, 1, 4])
    yield "rms_norm", kernels.rms_norm(x, w, 1e-5)
    yield "layer_norm", kernels.layer_norm(x, w, w, 1e-5)
    yield "rotate", kernels.rotate(x, paddle.cos(angles), paddle.sin(angles))
    yield "attention", kernels.attention(x, x, x)
    yield "swiglu", kernels.swiglu(x, x)
    yield "embedding", kernels.embedding(paddle.to_tensor([1, 2]), table)


def test_emulated_low_precision_results_are_float32_on_the_grid():
    set_precision(Precision("bfloat16", "bfloat16", "float32", emulated=True))
    for name, y in results_of_low_precision_weights():
        assert y.dtype == paddle.float32, name
        np.testing.assert_array_equal(y.numpy(), y.astype("bfloat16").astype("float32").numpy(), err_msg=name)


def test_head_loss_of_low_precision_weights_gives_gradients_of_their_dtype():
    set_precision(Precision("bfloat16", "bfloat16", "float32", emulated=True))
    x, w = paddle.randn([5, 8]), paddle.randn([8, 9]).astype("bfloat16")
    x.stop_gradient = w.stop_gradient = False
    loss = kernels.head_loss(x, w, paddle.to_tensor([1, 2, -100, 0, 8]))
    loss.backward()
    assert loss.dtype == paddle.float32 and w.grad.dtype == paddle.bfloat16
    assert float(w.grad.astype("float32").abs().max()) > 0
