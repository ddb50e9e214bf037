"""Matrix products, and the head with its cross entropy, on a CPU against float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from .reference import TOLERANCE, generator, normal


def assert_near(found, wanted):
    """In norm: what of sums of products that cancel is left has the error of the whole."""
    found, wanted = np.asarray(found, "float64"), np.asarray(wanted, "float64")
    assert found.shape == wanted.shape
    error = np.linalg.norm(found - wanted) / max(np.linalg.norm(wanted), 1e-30)
    assert error <= TOLERANCE, f"off by {error:.2e}"


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("transposed", [(False, False), (False, True), (True, False), (True, True)])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (7, 17, 5), (125, 1300, 401), (13, 33, 2000), (4100, 40, 9), (6, 4200, 2)]
)
def test_products(shape, transposed, count, threads):
    from fused_layers import product

    rows, columns, depth = shape
    a, b = normal(generator(1, *shape), rows, depth), normal(generator(2, *shape), depth, columns)
    given = [paddle.to_tensor(np.ascontiguousarray(x.T if turn else x)) for x, turn in zip((a, b), transposed)]
    with threads(count):
        found = product(*given, *transposed)
    assert_near(found, a.astype("float64") @ b)


def test_a_product_without_terms_is_zero():
    from fused_layers import product

    assert not product(paddle.zeros([3, 0]), paddle.zeros([0, 20])).numpy().any()


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 7, 3), (130, 401, 1300), (3, 4, 0)])
def test_a_product_is_added(shape, count, threads):
    from fused_layers import add_product_

    rows, columns, depth = shape
    a, b = normal(generator(1, *shape), depth, rows), normal(generator(2, *shape), depth, columns)
    total = normal(generator(3, *shape), rows, columns)
    found = paddle.to_tensor(total)
    with threads(count):
        for _ in range(2):
            add_product_(found, paddle.to_tensor(a), paddle.to_tensor(b))
    assert_near(found, total.astype("float64") + 2 * (a.T.astype("float64") @ b))


def test_what_can_not_be_added_is_refused():
    from fused_layers import add_product_

    with pytest.raises(OSError, match=r"add_product_: total has shape \[3, 2\]; expected \[2, 3\]"):
        add_product_(paddle.zeros([3, 2]), paddle.zeros([4, 2]), paddle.zeros([4, 3]))
    with pytest.raises(OSError, match=r"add_product_: b has shape \[5, 3\]; expected \[4, 3\]"):
        add_product_(paddle.zeros([2, 3]), paddle.zeros([4, 2]), paddle.zeros([5, 3]))


def wide_head(x, weight, labels):
    x, weight = x.astype("float64"), weight.astype("float64")
    logits = x @ weight
    top = logits.max(-1, keepdims=True)
    powers = np.exp(logits - top)
    total = powers.sum(-1, keepdims=True)
    rows = np.arange(len(labels))
    loss = (np.log(total[:, 0]) + top[:, 0] - logits[rows, labels]).sum()
    slopes = powers / total
    slopes[rows, labels] -= 1
    return loss, slopes @ weight.T, x.T @ slopes


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (5, 7, 3), (33, 16, 5000), (700, 130, 515), (1100, 70, 333), (40, 900, 65)]
)
def test_head_loss(shape, transpose, threads):
    from fused_layers import head_loss

    rows, hidden, vocab = shape
    rng = generator(3, *shape)
    x, weight = normal(rng, rows, hidden), normal(rng, hidden, vocab, scale=2 * hidden**-0.5)
    labels = rng.integers(0, vocab, rows)
    given = paddle.to_tensor(np.ascontiguousarray(weight.T) if transpose else weight)
    wanted, wide_x, wide_weight = wide_head(x, weight, labels)
    for count in (1, 2, 3):
        with threads(count):
            loss, grad_x, grad_weight = head_loss(paddle.to_tensor(x), given, paddle.to_tensor(labels), transpose)
        np.testing.assert_allclose(loss[0], wanted, rtol=1e-6, atol=1e-30)
        assert_near(grad_x, wide_x)
        assert_near(grad_weight, wide_weight.T if transpose else wide_weight)


def test_only_wanted_gradients_of_the_head_are_made():
    from fused_layers import head_loss

    rng = generator(4)
    given = paddle.to_tensor(normal(rng, 9, 20)), paddle.to_tensor(normal(rng, 20, 70)), paddle.arange(9)
    whole = [made.numpy() for made in head_loss(*given)]
    for wanted in ((False, False), (True, False), (False, True)):
        made = head_loss(*given, False, *wanted)
        np.testing.assert_array_equal(made[0], whole[0])
        for one, expected, there in zip(made[1:], whole[1:], wanted):
            assert list(one.shape) == (list(expected.shape) if there else [0])
            np.testing.assert_array_equal(one, expected if there else [])


def test_losses_beyond_the_range_of_exponentials_are_exact():
    from fused_layers import head_loss

    x, weight = np.eye(3, dtype="float32"), np.zeros((3, 100), "float32")
    weight[0, 7], weight[1, 3], weight[2, :50] = 300.0, -300.0, 1000.0
    loss, grad_x, _ = head_loss(paddle.to_tensor(x), paddle.to_tensor(weight), paddle.to_tensor([5, 3, 99]))
    assert loss.item() == pytest.approx(300 + (300 + np.log(99)) + (1000 + np.log(50)), rel=1e-6)
    assert np.isfinite(grad_x.numpy()).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["x", "weight"])
def test_what_is_not_finite_stays_so_in_the_loss(bad, where):
    from fused_layers import head_loss

    rng = generator(5)
    given = {"x": normal(rng, 8, 24), "weight": normal(rng, 24, 130)}
    given[where][3, 5] = bad
    loss, *_ = head_loss(*(paddle.to_tensor(value) for value in given.values()), paddle.arange(8))
    assert not np.isfinite(loss.item())


def test_scale_in_place(threads):
    from fused_layers import scale_

    x = normal(generator(6), 100_003)
    for count in (1, 2):
        given = paddle.to_tensor(x)
        with threads(count):
            assert scale_(given, 0.3).data_ptr() == given.data_ptr()
        np.testing.assert_array_equal(given, x * np.float32(0.3))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"labels": paddle.to_tensor([0, 1, 70])}, r"labels has 70 at place 2; expected 0 to 69"),
        ({"labels": paddle.to_tensor([0, -100, 1])}, r"labels has -100 at place 1"),
        ({"labels": paddle.to_tensor([0, 1])}, r"labels has shape \[2\]; expected \[3\]"),
        ({"weight": paddle.ones([21, 70])}, r"weight has shape \[21, 70\]; expected \[20, 70\]"),
        ({"x": paddle.ones([3, 20], "float64")}, r"x is float64 \[3, 20\]; expected float32"),
    ],
)
def test_refusals(change, message):
    from fused_layers import head_loss

    given = {"x": paddle.ones([3, 20]), "weight": paddle.ones([20, 70]), "labels": paddle.arange(3), **change}
    with pytest.raises(OSError, match=message):
        head_loss(*given.values())
