"""What all kinds of attention share: linear biases, for the present heads and places."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.nn import RecomputePolicy, core, set_recompute
from paddlenlp.nn.batch import Batch
from paddlenlp.nn.cache import LayerCache
from paddlenlp.nn.core import attend
from paddlenlp.parallel import Axis, Topology

SLOPES = np.array([0.5, 0.25, 0.1, 0.0], np.float32)
TOKENS = 7


@pytest.fixture
def heads():
    """Queries, keys and values of two rows, four heads and two key heads."""
    paddle.seed(0)
    made = [paddle.randn([2, TOKENS, n, 4]) for n in (4, 2, 2)]
    for x in made:
        x.stop_gradient = False
    return made


def expected(q, k, v):
    """One query at a time."""
    q, k, v = (x.numpy().astype(np.float64) for x in (q, k, v))
    y = np.zeros(q.shape)
    for row, i, head in np.ndindex(2, TOKENS, 4):
        keys = np.arange(i + 1)
        scores = k[row, keys, head // 2] @ q[row, i, head] / 2 - SLOPES[head] * (i - keys)
        y[row, i, head] = np.exp(scores) @ v[row, keys, head // 2] / np.exp(scores).sum()
    return y


def test_scores_fall_with_the_distance(heads):
    found = attend(*heads, Batch(2, TOKENS, 0, TOKENS), slopes=SLOPES)
    np.testing.assert_allclose(found.numpy(), expected(*heads), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("first", [1, 3])
def test_places_go_on_after_the_cache(heads, first):
    cache, found = LayerCache(), []
    for span in (slice(0, first), slice(first, TOKENS)):
        batch = Batch(2, span.stop - span.start, span.start, span.stop, cache=cache)
        found.append(attend(*(x[:, span] for x in heads), batch, slopes=SLOPES))
    np.testing.assert_allclose(paddle.concat(found, 1).numpy(), expected(*heads), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_takes_the_slopes_and_masks_of_its_heads(heads, rank, monkeypatch):
    mask = paddle.rand([1, 4, TOKENS, TOKENS]) < 0.7
    whole = attend(*heads, Batch(2, TOKENS, 0, TOKENS, attention_mask=mask), slopes=SLOPES)
    monkeypatch.setattr(core, "topology", lambda: Topology(tp=Axis(2, rank)))
    own = [x[:, :, rank * n : (rank + 1) * n] for x, n in zip(heads, (2, 1, 1))]
    found = attend(*own, Batch(2, TOKENS, 0, TOKENS, attention_mask=mask), slopes=SLOPES)
    np.testing.assert_allclose(found.numpy(), whole.numpy()[:, :, 2 * rank : 2 * rank + 2], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reentrant", [False, True])
def test_recomputing_the_core_changes_nothing(heads, reentrant):
    grads = []
    for recompute in (None, "core_attn"):
        set_recompute(RecomputePolicy(recompute is not None, "core_attn", use_reentrant=reentrant))
        attend(*heads, Batch(2, TOKENS, 0, TOKENS, recompute=recompute), slopes=SLOPES, window=3).sum().backward()
        grads.append([x.grad.numpy() for x in heads])
        for x in heads:
            x.clear_gradient()
    for plain, again in zip(*grads):
        np.testing.assert_array_equal(plain, again)
