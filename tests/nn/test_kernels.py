"""The chooser: which kernels run, what it reports, and that results follow the precision policy."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddlenlp.nn import cpu, gpu, kernels, plain
from paddlenlp.nn.precision import Precision, set_precision


@pytest.fixture(autouse=True)
def _restore():
    paddle.seed(3)
    yield
    set_precision(Precision())
    kernels.configure()


def on_gpu(monkeypatch, **flags):
    monkeypatch.setattr(kernels.paddle, "get_device", lambda: "gpu:0")
    kernels.configure(SimpleNamespace(**flags))


def test_a_cpu_gets_the_cpu_kernels():
    kernels.configure()
    for name, kernel in cpu.kernels().items():
        assert kernels._chosen[name] is kernel
    assert set(kernels._chosen) == set(plain.KERNELS)
    assert kernels.report() == []


def test_any_of_the_arguments_may_ask():
    kernels.configure(SimpleNamespace(use_fused_rope=True), SimpleNamespace(use_fast_layer_norm=True), None)
    assert [line.partition(":")[0] for line in kernels.report()] == ["use_fused_rope", "use_fast_layer_norm"]


@pytest.mark.parametrize("flag", sorted(kernels.FLAGS))
def test_on_a_cpu_each_flag_gives_one_line(flag):
    kernels.configure(SimpleNamespace(**{flag: True}))
    (line,) = kernels.report()
    assert line.startswith(f"{flag}: ") and " instead, because " in line
    for name in kernels.FLAGS[flag]:
        assert kernels._chosen[name].__module__ in line


def test_without_flags_a_gpu_gets_the_plain_kernels_but_for_those_that_always_run(monkeypatch):
    on_gpu(monkeypatch)
    for name in plain.KERNELS:
        assert kernels._chosen[name] is gpu.ALWAYS.get(name, getattr(plain, name))


@pytest.mark.parametrize("flag", sorted(gpu.ON_REQUEST))
def test_a_flag_turns_its_kernel_on_on_a_gpu(monkeypatch, flag):
    on_gpu(monkeypatch, **{flag: True})
    for name, kernel in gpu.ON_REQUEST[flag].items():
        assert kernels._chosen[name] is kernel
    assert kernels.report() == []


def test_a_gpu_reports_what_it_lacks(monkeypatch):
    on_gpu(monkeypatch, use_fast_layer_norm=True)
    assert kernels.report()[0].startswith("use_fast_layer_norm: layer_norm of paddlenlp.nn.plain and rms_norm of ")


def test_independent_parts_run_at_once_on_a_cpu_only(monkeypatch):
    monkeypatch.setattr(cpu.threads, "count", lambda: 2)
    here = threading.get_ident()
    kernels.configure()
    assert here not in kernels.each(lambda part: threading.get_ident(), [1, 2])
    on_gpu(monkeypatch)
    assert kernels.each(lambda part: (part, threading.get_ident()), [1, 2]) == [(1, here), (2, here)]


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
