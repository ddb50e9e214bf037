"""The CPU kernels against the plain versions in values and gradients, and against float64 where that decides."""

from __future__ import annotations

import numpy as np
import paddle
import pytest
from paddle.distributed.fleet.utils import recompute

from paddlenlp.nn import plain
from paddlenlp.nn.cpu import attention, loss, mlp, norm, position, threads


@pytest.fixture(autouse=True)
def _seed():
    paddle.seed(7)


def leaf(*shape, scale=1.0):
    x = paddle.randn(shape) * scale
    x.stop_gradient = False
    return x


def values_and_grads(function, inputs, weight=None):
    """The outputs and the gradients of sum(outputs * weight) with respect to `inputs`."""
    for x in inputs:
        x.clear_gradient(set_to_zero=False)
    y = function(*inputs)
    weight = paddle.ones_like(y) if weight is None else weight
    (y * weight).sum().backward()
    return [y.numpy(), *(x.grad.numpy() for x in inputs)]


def assert_equal(fast, slow, inputs, tolerance=1e-5):
    """Both functions agree within `tolerance` of the largest entry, in values and gradients."""
    weight = paddle.randn(slow(*inputs).shape)
    for mine, wanted in zip(values_and_grads(fast, inputs, weight), values_and_grads(slow, inputs, weight)):
        assert mine.shape == wanted.shape
        np.testing.assert_allclose(mine, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("shape", [(1, 8), (37, 24), (3, 5, 33)])
@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_rms_norm(shape, offset):
    assert_equal(
        lambda x, w: norm.rms_norm(x, w, 1e-5, offset),
        lambda x, w: plain.rms_norm(x, w, 1e-5, offset),
        [leaf(*shape), leaf(shape[-1])],
    )


def test_rms_norm_of_a_zero_row_and_of_large_values():
    x = paddle.to_tensor(np.array([[0.0] * 4, [1e15, -1e15, 1e15, 1e15]], np.float32))
    np.testing.assert_allclose(norm.rms_norm(x, paddle.ones([4]), 1e-5).numpy(), [[0] * 4, [1, -1, 1, 1]], rtol=1e-5)


@pytest.mark.parametrize("batch", [1, 3])
def test_rotate(batch):
    angles = paddle.randn([batch, 7, 1, 5])
    cos, sin = paddle.cos(angles), paddle.sin(angles)
    assert_equal(lambda x: position.rotate(x, cos, sin), lambda x: plain.rotate(x, cos, sin), [leaf(3, 7, 2, 10)])


def test_rotate_interleaved():
    angles = paddle.randn([1, 7, 1, 5])
    cos, sin = paddle.cos(angles), paddle.sin(angles)
    x = leaf(2, 7, 2, 10)
    pairs = x.numpy().reshape(2, 7, 2, 5, 2)
    turned = (pairs[..., 0] + 1j * pairs[..., 1]) * np.exp(1j * angles.numpy())
    y = position.rotate(x, cos, sin, interleaved=True).numpy().reshape(2, 7, 2, 5, 2)
    np.testing.assert_allclose(y[..., 0] + 1j * y[..., 1], turned, rtol=1e-5, atol=1e-5)


def test_swiglu():
    assert_equal(mlp.swiglu, plain.swiglu, [leaf(6, 11, scale=3), leaf(6, 11)])


def test_swiglu_far_from_zero():
    gate = paddle.to_tensor([-1e4, -90.0, 90.0, 1e4], stop_gradient=False)
    y, grad, _ = values_and_grads(mlp.swiglu, [gate, paddle.to_tensor([1.0] * 4, stop_gradient=False)])
    np.testing.assert_allclose(y, [0, 0, 90, 1e4], atol=1e-6)
    np.testing.assert_allclose(grad, [0, 0, 1, 1], atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("length", [1, 5, 128, 129, 300])
@pytest.mark.parametrize("heads, groups", [(2, 2), (4, 2), (3, 1)])
def test_attention(monkeypatch, count, length, heads, groups):
    monkeypatch.setattr(threads, "count", lambda: count)
    inputs = [leaf(2, length, heads, 8), leaf(2, length, groups, 8), leaf(2, length, groups, 6)]
    assert_equal(attention.attention, plain.attention, inputs)


def test_attention_that_computes_probabilities_again(monkeypatch):
    monkeypatch.setattr(attention, "KEPT_BYTES", 0)
    inputs = [leaf(1, 200, 2, 8), leaf(1, 200, 2, 8), leaf(1, 200, 2, 8)]
    assert_equal(attention.attention, plain.attention, inputs)


@pytest.mark.parametrize("limit, kept", [(1 << 30, 2), (0, 0)])
def test_attention_keeps_probabilities_up_to_a_limit(monkeypatch, limit, kept):
    monkeypatch.setattr(attention, "KEPT_BYTES", limit)
    monkeypatch.setattr(threads, "count", lambda: 1)
    made = []
    probabilities = attention._probabilities
    monkeypatch.setattr(attention, "_probabilities", lambda *args: made.append(1) or probabilities(*args))
    q = leaf(1, 200, 2, 8)
    attention.attention(q, q, q).sum().backward()
    assert len(made) == 4 - kept


def test_attention_of_large_scores():
    inputs = [leaf(1, 140, 2, 8, scale=15), leaf(1, 140, 2, 8, scale=15), leaf(1, 140, 2, 8)]
    fast, slow = (lambda *x, f=f: f(*x, scale=0.9) for f in (attention.attention, plain.attention))
    assert_equal(fast, slow, inputs, tolerance=1e-3)  # a score of 1000 is known to 1e-4 only


def special(name):
    keys = paddle.ones([2, 9])
    keys[0, :4] = 0
    return {
        "mask of keys": {"mask": keys},
        "whole mask": {"mask": paddle.rand([2, 1, 9, 9]) > 0.5},
        "bias": {"bias": paddle.randn([1, 4, 9, 9])},
        "window": {"window": 3},
    }[name]


@pytest.mark.parametrize("name", ["mask of keys", "whole mask", "bias", "window"])
def test_attention_leaves_the_rest_to_the_plain_version(name):
    inputs, options = [leaf(2, 9, 4, 8), leaf(2, 9, 2, 8), leaf(2, 9, 2, 8)], special(name)
    y, wanted = attention.attention(*inputs, **options), plain.attention(*inputs, **options)
    np.testing.assert_array_equal(y.numpy(), wanted.numpy())
    assert np.abs(y.numpy() - plain.attention(*inputs).numpy()).max() > 1e-3


def test_attention_with_cached_keys():
    q, k, v = leaf(1, 7, 2, 8), leaf(1, 7, 2, 8), leaf(1, 7, 2, 8)
    whole = attention.attention(q, k, v).numpy()
    np.testing.assert_allclose(attention.attention(q[:, 5:], k, v).numpy(), whole[:, 5:], atol=1e-6)


def head(t=11, h=6, v=19, transpose=False, ignored=()):
    labels = paddle.randint(0, v, [t])
    for index in ignored:
        labels[index] = -100
    return [leaf(t, h), leaf(*((v, h) if transpose else (h, v)))], labels


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("ignored", [(), (0, 3, 10)])
@pytest.mark.parametrize("rows", [4, 512])
@pytest.mark.parametrize("count", [1, 2])
def test_head_loss(monkeypatch, transpose, ignored, rows, count):
    monkeypatch.setattr(loss, "ROWS", rows)
    monkeypatch.setattr(threads, "count", lambda: count)
    inputs, labels = head(transpose=transpose, ignored=ignored)
    fast, slow = (lambda x, w, f=f: f(x, w, labels, transpose) for f in (loss.head_loss, plain.head_loss))
    assert_equal(fast, slow, inputs)


def test_head_loss_without_any_kept_label():
    inputs, labels = head(ignored=range(11))
    total, *grads = values_and_grads(lambda x, w: loss.head_loss(x, w, labels), inputs)
    assert total == 0
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("gap", [50.0, 80.0, 300.0, 1e6])
def test_losses_of_improbable_labels_are_exact(gap):
    """Paddle's own softmax on a CPU can't give a loss above 64."""
    x, weight = paddle.to_tensor([[1.0], [0.0]], stop_gradient=False), paddle.to_tensor([[0.0, gap]])
    labels = paddle.to_tensor([0, 1])
    total, grad = values_and_grads(lambda x: loss.head_loss(x, weight, labels), [x])
    np.testing.assert_allclose(total, gap + np.log(2), rtol=1e-6)
    np.testing.assert_allclose(grad, [[gap], [-gap / 2]], rtol=1e-6)
    np.testing.assert_allclose(loss.cross_entropy(paddle.matmul(x, weight), labels).numpy(), [gap, np.log(2)], 1e-6)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_loss_of_what_is_not_finite_is_not_finite(number):
    """Paddle's own softmax on a CPU makes log(vocabulary) of it."""
    for place in range(2):
        inputs, labels = head()
        x, weight = (tensor.detach().clone() for tensor in inputs)
        (x, weight)[place][1, 2] = number
        assert not np.isfinite(float(loss.head_loss(x, weight, labels)))
        losses = loss.cross_entropy(paddle.matmul(x, weight), labels).numpy()
        assert not np.isfinite(losses[1]) and (place == 1 or np.isfinite(losses[[0, 2, 3]]).all())


def test_cross_entropy():
    logits, labels = leaf(6, 9), paddle.to_tensor([3, -100, 0, 8, -100, 1])
    fast, slow = (lambda x, f=f: f(x, labels) for f in (loss.cross_entropy, plain.cross_entropy))
    assert_equal(fast, slow, [logits])
    assert (fast(logits).numpy()[[1, 4]] == 0).all()


def test_head_loss_makes_no_gradients_where_none_are_wanted(monkeypatch):
    products = []
    matmul = paddle.matmul
    monkeypatch.setattr(loss.paddle, "matmul", lambda *a, **k: products.append(1) or matmul(*a, **k))
    (x, weight), labels = head()
    with paddle.no_grad():
        total = loss.head_loss(x, weight, labels)
    assert len(products) == 1 and total.stop_gradient
    weight.stop_gradient = True
    loss.head_loss(x, weight, labels).backward()
    assert len(products) == 3 and weight.grad is None and x.grad is not None


def test_head_loss_never_holds_all_logits(monkeypatch):
    monkeypatch.setattr(loss, "ROWS", 4)
    monkeypatch.setattr(threads, "count", lambda: 1)
    rows = []
    softmax = loss.F.softmax_
    monkeypatch.setattr(loss.F, "softmax_", lambda x, axis: rows.append(x.shape[0]) or softmax(x, axis))
    inputs, labels = head(t=10)
    loss.head_loss(*inputs, labels)
    assert rows and max(rows) <= 4 and sum(rows) == 10


def test_head_losses_of_micro_batches_add_up():
    (x, weight), labels = head(t=12, ignored=(1, 2, 7))

    def in_parts(x, w):
        return (loss.head_loss(x[:5], w, labels[:5]) + loss.head_loss(x[5:], w, labels[5:])) / 9

    whole = values_and_grads(lambda x, w: loss.head_loss(x, w, labels) / 9, [x, weight])
    for one, two in zip(whole, values_and_grads(in_parts, [x, weight])):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-6)


def layer_like(length):
    """A function of [length, 8] and [8] that calls the kernels a decoder layer calls."""
    angles = paddle.randn([1, length, 1, 4])
    cos, sin = paddle.cos(angles), paddle.sin(angles)

    def part(x, w):
        y = position.rotate(norm.rms_norm(x, w, 1e-5).reshape([1, length, 1, 8]), cos, sin)
        return mlp.swiglu(attention.attention(y, y, y).reshape([length, 8]), x)

    return part


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_under_recompute(use_reentrant):
    part, inputs = layer_like(130), [leaf(130, 8), leaf(8)]
    kept = values_and_grads(part, inputs)
    again = values_and_grads(lambda *x: recompute(part, *x, use_reentrant=use_reentrant), inputs)
    for one, two in zip(kept, again):
        np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("kernel", "shapes"),
    [
        (lambda x, weight: norm.rms_norm(x, weight, 1e-5), [(5, 8), (8,)]),
        (mlp.swiglu, [(5, 8), (5, 8)]),
        (attention.attention, [(1, 6, 2, 4), (1, 6, 2, 4), (1, 6, 2, 4)]),
    ],
    ids=["norm", "swiglu", "attention"],
)
def test_inputs_that_are_not_trained_get_no_gradient(kernel, shapes):
    inputs = [leaf(*shape) for shape in shapes]
    _, *expected = values_and_grads(kernel, inputs)
    for index, wanted in enumerate(expected):
        fresh = [x.detach() for x in inputs]
        fresh[index].stop_gradient = False
        kernel(*fresh).sum().backward()
        np.testing.assert_array_equal(fresh[index].grad.numpy(), wanted)
        assert sum(x.grad is not None for x in fresh) == 1


@pytest.mark.parametrize("groups", [1, 2])
def test_threads_cut_no_view(groups):
    """Several threads that cut the same transposed view have taken each other's memory, a few times in a thousand."""
    assert attention._fold(paddle.randn([2, 5, 4, 8]), groups).is_contiguous()
