"""What operations with their own backward pass save, also where their inputs are views with strides of their own."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle.autograd import PyLayer

import paddlenlp
from paddlenlp.nn import kernels
from paddlenlp.nn.blocks import Rule
from paddlenlp.nn.moe_balance import balanced
from paddlenlp.nn.recompute import RecomputePolicy, recomputed, set_recompute
from paddlenlp.nn.ring import ring_attention
from paddlenlp.parallel.experts import Deal
from paddlenlp.parallel.group import SoloGroup
from paddlenlp.parallel.products import column_products, row_product
from paddlenlp.utils import pylayer

MODES = pytest.mark.parametrize("reentrant", [False, True], ids=["recorded", "reentrant"])
CHOSEN = np.array([[0, 2], [1, 2], [2, 0], [0, 1]])


@pytest.fixture(autouse=True)
def _policy():
    yield
    set_recompute(RecomputePolicy())


def collected(y, weights):
    deal = Deal(paddle.to_tensor(CHOSEN), 3)
    return deal.back(deal.out(y) * 1.5, weights)


def of_balance(weights, scores):
    return balanced(weights, scores, paddle.to_tensor(CHOSEN), 2, 0.5)


def around(q, k, v):
    return ring_attention(q, k, v, Rule(0.3), SoloGroup())


def rotated(x):
    angles = paddle.arange(6, dtype="float32").reshape([1, 3, 1, 2])
    return kernels.rotate(x, paddle.cos(angles), paddle.sin(angles))


OPERATIONS = {
    "swiglu": (kernels.swiglu, [5, 4], [5, 4]),
    "rms norm": (lambda x, weight: kernels.rms_norm(x, weight[0], 1e-6), [5, 4], [2, 4]),
    "rotate": (rotated, [2, 3, 2, 4]),
    "attention": (kernels.attention, [2, 6, 4, 8], [2, 6, 2, 8], [2, 6, 2, 8]),
    "ring": (around, [2, 4, 4, 8], [2, 4, 2, 8], [2, 4, 2, 6]),
    "head loss": (lambda x, weight: kernels.head_loss(x, weight, paddle.arange(5)), [5, 4], [4, 7]),
    "loss": (lambda x: kernels.cross_entropy(x, paddle.arange(5)), [5, 7]),
    "experts": (collected, [4, 6], [4, 2]),
    "balance": (of_balance, [4, 2], [4, 3]),
    "columns": (lambda x, *w: paddle.concat(column_products(x, w, [None, None], [[], []]), -1), [5, 4], [4, 3], [4, 6]),
    "row": (row_product, [5, 4], [4, 6]),
}


def slopes_of(function, views, run, frozen=()):
    """The result of `function` of transposed views, and the gradients of what they are views of."""
    leaves = []
    for index, shape in enumerate(views):
        values = np.random.default_rng(index).standard_normal(shape[::-1]).astype(np.float32)
        leaves.append(paddle.to_tensor(values, stop_gradient=index in frozen))

    def compute(*leaves):
        return function(*[(2 * leaf).transpose(list(range(leaf.ndim))[::-1]) for leaf in leaves])

    y = run(compute, *leaves)
    (y * paddle.arange(1, y.size + 1, dtype="float32").reshape(y.shape)).sum().backward()
    return [y.numpy(), *(None if leaf.grad is None else leaf.grad.numpy() for leaf in leaves)]


@MODES
@pytest.mark.parametrize("name", OPERATIONS)
def test_views_are_recomputed_as_they_were(name, reentrant):
    function, *views = OPERATIONS[name]
    expected = slopes_of(function, views, lambda compute, *leaves: compute(*leaves))
    assert all(np.abs(slope).max() > 0 for slope in expected[1:])
    set_recompute(RecomputePolicy(True, use_reentrant=reentrant))
    for found, value in zip(slopes_of(function, views, recomputed), expected):
        np.testing.assert_array_equal(found, value)


@pytest.mark.parametrize(
    ("name", "frozen"),
    [(name, place) for name, (_, *views) in OPERATIONS.items() for place in range(len(views)) if len(views) > 1],
)
def test_inputs_that_are_not_trained(name, frozen):
    function, *views = OPERATIONS[name]
    run = lambda compute, *leaves: compute(*leaves)  # noqa: E731
    expected, found = slopes_of(function, views, run), slopes_of(function, views, run, frozen=[frozen])
    assert found[1 + frozen] is None
    for place in {*range(len(found))} - {1 + frozen}:
        np.testing.assert_array_equal(found[place], expected[place])


class Unsafe(PyLayer):
    """Saves a view as it is."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensor()
        return 2 * x * grad


def test_paddle_forgets_the_strides_of_what_is_saved():
    """Else `save` need not copy."""
    expected = slopes_of(Unsafe.apply, [[5, 4]], lambda compute, *leaves: compute(*leaves))
    found = slopes_of(Unsafe.apply, [[5, 4]], recomputed)
    assert not np.allclose(found[1], expected[1])


def test_what_is_in_one_piece_is_not_copied():
    saved, x = [], paddle.zeros([2, 3])
    view = x.transpose([1, 0])
    pylayer.save(SimpleNamespace(save_for_backward=lambda *tensors: saved.extend(tensors)), x, view)
    assert saved[0] is x and saved[1].is_contiguous() and not view.is_contiguous()


def test_nobody_saves_past_it():
    root = Path(paddlenlp.__file__).parent
    users = [str(path.relative_to(root)) for path in root.rglob("*.py") if "ctx.save_for_backward" in path.read_text()]
    assert users == ["utils/pylayer.py"]
