"""Blocked attention on a CPU against float64."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from .reference import generator, normal
from .test_products import assert_near


def inputs(rows, queries, keys, heads, groups, dim, value_dim):
    rng = generator(rows, queries, keys, heads, dim)
    shapes = [(rows, queries, heads, dim), (rows, keys, groups, dim), (rows, keys, groups, value_dim)]
    return [normal(rng, *shape) for shape in shapes]


def starts_of(rows, keys, documents):
    """Where the documents, which begin at random places, begin."""
    begins = np.zeros((rows, keys), "int32")
    for row in begins:
        places = generator(8, keys).choice(np.arange(1, keys), documents, replace=False)
        row[places] = places
    return np.maximum.accumulate(begins, 1)


def wide(q, k, v, grad, scale, window=0, starts=None, slopes=None):
    """The output, the logarithms of the sums, and the gradients of q, k and v."""
    q, k, v, grad = (x.astype("float64") for x in (q, k, v, grad))
    queries, keys, groups = q.shape[1], k.shape[1], k.shape[2]
    shared = q.shape[2] // groups
    k, v = np.repeat(k, shared, 2), np.repeat(v, shared, 2)
    places, others = np.arange(keys - queries, keys)[:, None], np.arange(keys)
    scores = np.einsum("bihd,bjhd->bhij", q, k) * scale
    if slopes is not None:
        scores += slopes.astype("float64")[:, None, None] * (others - places)
    seen = (others <= places) & ((places - others < window) | (window == 0))
    if starts is not None:
        seen = seen & (others >= starts[:, keys - queries :, None])[:, None]
    scores = np.where(seen, scores, -np.inf)
    top = scores.max(-1, keepdims=True)
    total = np.exp(scores - top).sum(-1, keepdims=True)
    p = np.exp(scores - top) / total
    along = np.einsum("bihd,bjhd->bhij", grad, v)
    slope = p * (along - (p * along).sum(-1, keepdims=True)) * scale
    grads = [np.einsum("bhij,bihd->bjhd", slope, q), np.einsum("bhij,bihd->bjhd", p, grad)]
    folded = [x.reshape(*x.shape[:2], groups, shared, -1).sum(3) for x in grads]
    output = np.einsum("bhij,bjhd->bihd", p, v)
    return output, (top + np.log(total))[..., 0], np.einsum("bhij,bjhd->bihd", slope, k), *folded


CASES = {
    "grouped": ((2, 300, 300, 4, 2, 64, 64), {}),
    "one group": ((1, 405, 405, 3, 1, 64, 64), {}),
    "small": ((1, 7, 7, 1, 1, 5, 3), {}),
    "one token": ((1, 1, 1, 1, 1, 1, 1), {}),
    "cached keys": ((2, 100, 333, 3, 1, 80, 48), {}),
    "dim 128": ((1, 200, 200, 1, 1, 128, 128), {}),
    "latent": ((1, 260, 260, 2, 1, 192, 128), {}),
    "window": ((1, 300, 300, 2, 2, 96, 96), {"window": 50}),
    "window 1": ((1, 70, 70, 2, 2, 16, 16), {"window": 1}),
    "documents": ((2, 300, 300, 2, 1, 40, 40), {"starts": 5}),
    "documents of few tokens": ((1, 300, 300, 2, 1, 64, 64), {"starts": 150}),
    "slopes": ((1, 385, 385, 4, 4, 40, 40), {"slopes": True}),
    "all": ((2, 290, 290, 4, 2, 48, 48), {"window": 130, "starts": 3, "slopes": True}),
    "one query": ((2, 1, 500, 4, 2, 64, 64), {"window": 130, "slopes": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_against_float64(name, threads):
    from fused_layers import causal_attention, causal_attention_grad

    shape, rules = CASES[name]
    rules = dict(rules)
    if "starts" in rules:
        rules["starts"] = starts_of(shape[0], shape[2], rules["starts"])
    if "slopes" in rules:
        rules["slopes"] = (2.0 ** -np.arange(1, shape[3] + 1)).astype("float32")
    q, k, v = inputs(*shape)
    grad, scale = normal(generator(9), *q.shape[:3], v.shape[3]), shape[5] ** -0.5
    given = {key: value if key == "window" else paddle.to_tensor(value) for key, value in rules.items()}
    tensors = [paddle.to_tensor(x) for x in (q, k, v)]
    expected = wide(q, k, v, grad, scale, **rules)
    for count in (1, 2, 3):
        with threads(count):
            y, log_sums = causal_attention(*tensors, scale, **given)
            grads = causal_attention_grad(*tensors, y, log_sums, paddle.to_tensor(grad), scale, **given)
        for found, wanted in zip((y, log_sums, *grads), expected):
            if np.abs(wanted).max() > 1e-12:
                assert_near(found, wanted)
            else:  # of queries that see one key nothing but rounding is left
                np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_great_scores_do_not_overflow():
    from fused_layers import causal_attention

    q, k, v = inputs(1, 300, 300, 1, 1, 16, 16)
    y, _ = causal_attention(*(paddle.to_tensor(x) for x in (q * 40, k * 40, v)), 0.25)
    wanted, *_ = wide(q * 40, k * 40, v, np.zeros_like(q), 0.25)
    np.testing.assert_allclose(y, wanted, atol=2e-3)  # scores of thousands are known to 1e-4


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_not_finite_reaches_those_who_see_it_alone(which, bad):
    from fused_layers import causal_attention

    given = inputs(1, 250, 250, 1, 1, 16, 16)
    given[which][0, 130, 0, 3] = bad
    y, _ = causal_attention(*(paddle.to_tensor(x) for x in given), 0.25)
    finite = np.isfinite(y.numpy()).all((2, 3))[0]
    apart = 112 if which == 2 else 130  # values beyond the own place are multiplied by 0 within a tile
    assert finite[:apart].all() and not finite[130]


def test_memory_does_not_grow_as_the_square(threads):
    """Of 8192 positions all scores would take 256 MiB a head."""
    import resource

    from fused_layers import causal_attention, causal_attention_grad

    given = [paddle.to_tensor(x) for x in inputs(1, 8192, 8192, 1, 1, 16, 16)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    y, log_sums = causal_attention(*given, 0.25, window=64)
    causal_attention_grad(*given, y, log_sums, y, 0.25, window=64)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": paddle.ones([2, 9, 3, 8])}, r"q has 4 heads and k 3; expected a multiple"),
        ({"k": paddle.ones([2, 9, 2, 4])}, r"k has shape \[2, 9, 2, 4\]; expected \[2, 9, 2, 8\]"),
        ({"v": paddle.ones([2, 8, 2, 8])}, r"v has shape \[2, 8, 2, 8\]; expected \[2, 9, 2, 8\]"),
        ({"q": paddle.ones([2, 10, 4, 8])}, r"q has 10 positions and k 9"),
        ({"starts": paddle.zeros([2, 8], "int32")}, r"starts has shape \[2, 8\]; expected \[2, 9\]"),
        ({"window": -1}, r"window is -1"),
    ],
)
def test_refusals(change, message):
    from fused_layers import causal_attention

    given = {
        "q": paddle.ones([2, 9, 4, 8]),
        "k": paddle.ones([2, 9, 2, 8]),
        "v": paddle.ones([2, 9, 2, 8]),
        "scale": 1.0,
    }
    given.update({"v": change["k"]} if change.get("k", given["k"]).shape[2] == 3 else {})
    with pytest.raises(OSError, match=message):
        causal_attention(**{**given, **change})
