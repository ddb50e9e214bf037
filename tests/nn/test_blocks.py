"""Attention block by block adds up to attention."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.nn import blocks, plain
from paddlenlp.nn.blocks import Joined, Rule, Seen, Span, block_attention, block_gradients, spans

ROWS, TOKENS, GROUPS, READERS, WIDTH, VALUE = 2, 12, 2, 3, 4, 5
SLOPES = np.geomspace(1, 0.1, GROUPS * READERS, dtype=np.float32)


def mask(kind):
    paddle.seed(5)
    return {
        None: None,
        "padding": paddle.arange(TOKENS).unsqueeze(0) >= paddle.to_tensor([[0], [7]]),
        "any": paddle.rand([1, 1, TOKENS, TOKENS]) < 0.4,
        "any, by head": paddle.rand([ROWS, GROUPS * READERS, TOKENS, TOKENS]) < 0.4,
    }[kind]


def bias(slopes):
    if slopes is None:
        return None
    places = np.arange(TOKENS, dtype=np.float32)
    return paddle.to_tensor((slopes[:, None, None] * (places[None] - places[:, None]))[None])


def by_blocks(q, k, v, grad, rule, size):
    """Result and gradients of attention, of blocks of `size` queries and keys."""
    folded = [x.transpose([0, 2, 1, 3]) for x in (q, k, v, grad)]
    queries, outer = (x.reshape([ROWS, GROUPS, READERS, TOKENS, -1]) for x in (folded[0], folded[3]))
    pieces = [Span(start, start, size) for start in range(0, TOKENS, size)]
    pairs = [(mine, theirs) for mine in pieces for theirs in pieces if rule.meet(mine, theirs)]
    joined = Joined()
    for mine, theirs in pairs:
        found = block_attention(mine.of(queries), theirs.of(folded[1]), theirs.of(folded[2]), rule, mine, theirs)
        joined.add(mine, *found)
    out, lse = joined.whole(pieces)
    seen = Seen(queries, outer, (out * outer).sum(-1, keepdim=True), lse)
    sums = [paddle.zeros_like(x) for x in (queries, folded[1], folded[2])]
    for mine, theirs in pairs:
        parts = block_gradients(seen.of(mine), theirs.of(folded[1]), theirs.of(folded[2]), rule, mine, theirs)
        for total, place, part in zip(sums, (mine, theirs, theirs), parts):
            total[..., place.local : place.local + size, :] += part
    made = [out.flatten(1, 2), sums[0].flatten(1, 2), *sums[1:]]
    return [x.transpose([0, 2, 1, 3]).numpy() for x in made], len(pairs)


@pytest.mark.parametrize("kind", [None, "padding", "any", "any, by head"])
@pytest.mark.parametrize("slopes", [None, SLOPES], ids=["", "slopes"])
@pytest.mark.parametrize("window", [None, 1, 4, 5])
@pytest.mark.parametrize("size", [3, 12])
def test_blocks_add_up(kind, slopes, window, size):
    paddle.seed(2)
    heads = GROUPS * READERS
    shapes = ([heads, WIDTH], [GROUPS, WIDTH], [GROUPS, VALUE], [heads, VALUE])
    q, k, v, grad = (paddle.randn([ROWS, TOKENS, *shape]) for shape in shapes)
    for x in (q, k, v):
        x.stop_gradient = False
    y = plain.attention(q, k, v, mask=mask(kind), bias=bias(slopes), scale=0.6, window=window)
    (y * grad).sum().backward()
    found, computed = by_blocks(q.detach(), k.detach(), v.detach(), grad, Rule(0.6, window, slopes, mask(kind)), size)
    for mine, theirs in zip(found, (y, q.grad, k.grad, v.grad)):
        np.testing.assert_allclose(mine, theirs.numpy(), rtol=1e-5, atol=2e-6)
    if size == 3 and kind in (None, "padding"):
        assert computed == {None: 10, 1: 4, 4: 7, 5: 9}[window]


def test_a_query_without_keys_gives_zeros_and_no_nan():
    q, k = paddle.randn([1, 1, 1, 2, 4]), paddle.randn([1, 1, 2, 4])
    rule, span = Rule(1.0, mask=paddle.zeros([1, 2], "bool")), Span(0, 0, 2)
    out, lse = block_attention(q, k, k, rule, span, span)
    assert float(out.abs().max()) == 0 and float(lse.max()) == pytest.approx(plain.MASKED)
    parts = block_gradients(Seen(q, q, paddle.zeros_like(lse), lse), k, k, rule, span, span)
    assert all(float(part.abs().max()) == 0 for part in parts)


def test_chunks_are_cut_into_tiles(monkeypatch):
    monkeypatch.setattr(blocks, "TILE", 4)
    assert spans((1, 2), 6) == [Span(0, 6, 4), Span(4, 10, 2), Span(6, 12, 4), Span(10, 16, 2)]
    assert spans((0, 3), 4) == [Span(0, 0, 4), Span(4, 12, 4)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("window", [None, 1])
def test_every_rank_of_a_ring_computes_as_many_blocks(ranks, window):
    from paddlenlp.parallel.sequence import chunks_of

    rule = Rule(1.0, window)
    held = [spans(chunks_of(rank, ranks), 2) for rank in range(ranks)]
    counts = [[sum(rule.meet(q, k) for q in mine for k in theirs) for theirs in held] for mine in held]
    assert {sum(row) for row in counts} == {2 if window else 2 * ranks + 1}
    if window is None:  # nor does a rank wait for another at any step of the ring
        assert all(
            counts[rank][other] == (3 if rank == other else 2) for rank in range(ranks) for other in range(ranks)
        )
