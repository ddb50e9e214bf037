"""Context parallelism in attention (ring attention, arXiv:2310.01889, with balanced chunks).

Each of n ranks holds two chunks of every row (`parallel.sequence`). Its keys and values go once round the ring, one
rank a step, while each rank computes the blocks of its queries over those at hand; the next ones are under way
meanwhile. Blocks of which nothing is seen are left out: of causal attention every rank computes 2 n + 1 of 4 n. In the
backward pass keys and values go round again, and their gradients, in float32, one step behind them.

Bytes that a rank sends in one layer, for b rows of s tokens, hkv key heads of this tensor-parallel rank, d and dv
features of keys and values, and e bytes an element: forward (n - 1) * b * s / n * hkv (d + dv) * e; backward the same
with e + 4 in place of e. Of what the forward pass makes only the result and its lse (float32 [b, h, s / n]) are kept,
so that there is nothing to gain from recomputing it.
"""

from __future__ import annotations

from typing import Any, Iterator, List, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddlenlp.parallel.group import Group, Work
from paddlenlp.parallel.sequence import chunks_of, shift
from paddlenlp.utils.pylayer import needed, note_frozen, save

from .blocks import Joined, Rule, Seen, Span, Sums, block_attention, block_gradients, spans


def ring_attention(q: Tensor, k: Tensor, v: Tensor, rule: Rule, group: Group) -> Tensor:
    """Attention of the queries of this rank over the keys of all ranks of `group`.

    Args:
        q, k, v: [b, s / n, h, d], [b, s / n, hkv, d] and [b, s / n, hkv, dv] of own tokens.
        rule: what is seen, by places in the whole row.

    Returns:
        [b, s / n, h, dv] in the dtype of q
    """
    return _Ring.apply(q, k, v, rule, group)


class _Ring(PyLayer):
    """Saves queries, keys, values, result and lse."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, rule: Rule, group: Group) -> Tensor:
        note_frozen(ctx, q, k, v)
        own, queries, joined = _spans(group, 0, q.shape[1]), _fold(q, k.shape[2]), Joined()
        for step, here in enumerate(_passing(_heads_first(k, v), group)):
            keys, values = paddle.split(here, [k.shape[-1], v.shape[-1]], -1)
            for mine, theirs in _blocks(rule, own, _spans(group, step, q.shape[1])):
                found = block_attention(mine.of(queries), theirs.of(keys), theirs.of(values), rule, mine, theirs)
                joined.add(mine, *found)
        out, lse = joined.whole(own)
        result = _unfold(out.astype(q.dtype)).contiguous()
        ctx.rule, ctx.group = rule, group
        # Detached: a saved result that knows where it comes from would keep itself alive.
        save(ctx, q, k, v, result.detach(), lse)
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        q, k, v, result, lse = ctx.saved_tensor()
        delta = (grad.astype("float32") * result.astype("float32")).sum(-1, keepdim=True)
        queries, grad, delta = (_fold(x, k.shape[2]) for x in (q, grad, delta))
        seen = Seen(queries, grad, delta, lse)
        of_queries, of_keys, of_values = _round_again(seen, k, v, ctx.rule, ctx.group)
        return needed(ctx, [of_queries.astype(q.dtype), of_keys.astype(k.dtype), of_values.astype(v.dtype)])


def _round_again(seen: Seen, k: Tensor, v: Tensor, rule: Rule, group: Group) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of own queries, keys and values, float32 [b, s / n, heads, features]."""
    own, sizes, sums = _spans(group, 0, k.shape[1]), [k.shape[-1], v.shape[-1]], Sums()

    def gradients(step: int, here: Tensor) -> Tensor:
        keys, values = paddle.split(here, sizes, -1)
        return _of_keys(seen, keys, values, rule, (own, _spans(group, step, k.shape[1])), sums)

    passing = _passing(_heads_first(k, v), group)
    home = gradients(0, next(passing))
    travelling: Work[Any] = Work(lambda: None)
    for step, here in enumerate(passing, 1):
        # The gradients of these keys come from the rank that had them before, and go on with them, at last home.
        part, before = gradients(step, here), travelling.wait()
        travelling = shift(part if before is None else part + before, group)
    last = travelling.wait()
    of_keys, of_values = paddle.split((home if last is None else home + last).transpose([0, 2, 1, 3]), sizes, -1)
    return _unfold(sums.whole(own, seen.queries)), of_keys, of_values


def _of_keys(
    seen: Seen, keys: Tensor, values: Tensor, rule: Rule, places: Tuple[List[Span], List[Span]], of_queries: Sums
) -> Tensor:
    """The gradients of the keys and values at hand, float32 [b, hkv, s / n, d + dv]; adds to those of the queries.

    `places` are the spans of own queries and of the keys."""
    of_keys, of_values = Sums(), Sums()
    for mine, theirs in _blocks(rule, *places):
        found = block_gradients(seen.of(mine), theirs.of(keys), theirs.of(values), rule, mine, theirs)
        for sums, span, part in zip((of_queries, of_keys, of_values), (mine, theirs, theirs), found):
            sums.add(span, part)
    return paddle.concat([of_keys.whole(places[1], keys), of_values.whole(places[1], values)], -1)


def _passing(own: Tensor, group: Group) -> Iterator[Tensor]:
    """`own`, and then what the other ranks have, one rank a step back round the ring; each is under way while the one
    before is in use."""
    here = own
    for _ in range(group.size - 1):
        arriving = shift(here, group)
        yield here
        here = arriving.wait()
    yield here


def _spans(group: Group, back: int, length: int) -> List[Span]:
    """What the rank so many steps `back` in the ring holds of a row: `length` tokens."""
    return spans(chunks_of((group.rank - back) % group.size, group.size), length // 2)


def _blocks(rule: Rule, queries: List[Span], keys: List[Span]) -> List[Tuple[Span, Span]]:
    return [(mine, theirs) for mine in queries for theirs in keys if rule.meet(mine, theirs)]


def _heads_first(k: Tensor, v: Tensor) -> Tensor:
    """Keys and values in one message: [b, hkv, s, d + dv]."""
    return paddle.concat([k, v], -1).transpose([0, 2, 1, 3]).contiguous()


def _fold(x: Tensor, groups: int) -> Tensor:
    """[b, s, h, d] -> [b, groups, h / groups, s, d]."""
    b, s, h, d = x.shape
    return x.transpose([0, 2, 1, 3]).reshape([b, groups, h // groups, s, d])


def _unfold(x: Tensor) -> Tensor:
    """[b, groups, heads of a group, s, d] -> [b, s, h, d]."""
    return x.flatten(1, 2).transpose([0, 2, 1, 3])
