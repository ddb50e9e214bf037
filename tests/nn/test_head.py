"""The output head whose vectors are of unit length."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.nn import Embedding, LMHead

HIDDEN, VOCABULARY = 6, 11


def head(tied, normalised):
    layer = LMHead(HIDDEN, VOCABULARY, tied, normalised=normalised)
    if tied:
        layer.tie(Embedding(VOCABULARY, HIDDEN))
    values = np.random.RandomState(0).standard_normal(layer.matrix.shape).astype(np.float32)
    layer.matrix.set_value(values)
    return layer, values if tied else values.T


@pytest.mark.parametrize("tied", [False, True])
def test_logits_and_gradients(tied):
    layer, vectors = head(tied, True)
    x = paddle.rand([4, HIDDEN])
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found = layer(x)
    np.testing.assert_allclose(found.numpy(), x.numpy() @ units.T, rtol=1e-5, atol=1e-6)
    slopes = paddle.rand([4, VOCABULARY])
    (found * slopes).sum().backward()
    plain = paddle.to_tensor(vectors, stop_gradient=False)
    lengths = (plain * plain).sum(1, keepdim=True).sqrt()
    (paddle.matmul(x, plain / lengths, transpose_y=True) * slopes).sum().backward()
    grad = layer.matrix.grad.numpy()
    np.testing.assert_allclose(grad if tied else grad.T, plain.grad.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
def test_loss_does_not_depend_on_the_lengths(tied):
    layer, _ = head(tied, True)
    x, labels = paddle.rand([4, HIDDEN]), paddle.to_tensor([3, -100, 0, 10])
    before = float(layer.loss(x, labels))
    layer.matrix.set_value(layer.matrix * 3)
    assert float(layer.loss(x, labels)) == pytest.approx(before, rel=1e-6)
    plain, _ = head(tied, False)
    assert abs(float(plain.loss(x, labels)) - before) > 1e-3


def test_a_vector_of_zeros_scores_zero():
    layer, vectors = head(False, True)
    vectors[2] = 0.0
    layer.weight.set_value(vectors.T)
    found = layer(paddle.rand([4, HIDDEN])).numpy()
    assert (found[:, 2] == 0).all() and np.isfinite(found).all()
