"""How tensors are cut over ranks and fused of parts."""

from __future__ import annotations

import numpy as np
import pytest

from paddlenlp.parallel import REPLICATED, Fused, Layout
from paddlenlp.utils.errors import UsageError


def numbered(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


@pytest.mark.parametrize("layout", [REPLICATED, Layout(0), Layout(1), Layout(1, (4, 8)), Layout(0, (4, 2))])
@pytest.mark.parametrize("size", [1, 2])
def test_joining_the_cuts_gives_the_whole(layout, size):
    whole = numbered(6, 12)
    shares = [layout.cut(whole, rank, size) for rank in range(size)]
    np.testing.assert_array_equal(layout.join(shares), whole)
    if layout.axis is not None:
        assert shares[0].shape[layout.axis] == whole.shape[layout.axis] // size


def test_each_part_is_cut_by_itself():
    whole = np.array([[0, 1, 2, 3, 10, 11]])
    share = Layout(1, (4, 2)).cut(whole, 1, 2)
    np.testing.assert_array_equal(share, [[2, 3, 11]])


def test_uneven_cut_is_refused():
    with pytest.raises(UsageError, match=r"width 6.*4 ranks.*divisor of 6"):
        Layout(0).cut(numbered(6, 2), 0, 4)


def test_few_heads_are_copied():
    layout = Layout(0, units=(2,))
    shares = [layout.cut(numbered(6), rank, 4) for rank in range(4)]
    assert [share.tolist() for share in shares] == [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]
    assert layout.copies(6, 4).tolist() == [2, 2, 2] and layout.copies(6, 2).tolist() == [1, 1, 1]
    np.testing.assert_array_equal(layout.join(shares), numbered(6))


def test_fused_heads_are_copied_beside_their_queries():
    """Two groups of 4 queries, a key and a value, on 4 ranks: half the queries of a group each."""
    layout = Layout(0, (8, 2, 2), (0, 2, 2), groups=2)
    shares = [layout.cut(numbered(12), rank, 4).tolist() for rank in range(4)]
    assert shares == [[0, 1, 4, 5], [2, 3, 4, 5], [6, 7, 10, 11], [8, 9, 10, 11]]
    assert layout.copies(12, 4).tolist() == [1, 1, 2, 2]
    assert layout.cut(numbered(12), 1, 2).tolist() == [6, 7, 8, 9, 10, 11]


def layouts(random):
    """Layouts of all kinds with the width and a number of ranks that they can be cut over."""
    for _ in range(60):
        size, unit, axis = (int(x) for x in random.integers([1, 1, 0], [9, 4, 2]))
        divisors = [n for n in range(1, size + 1) if size % n == 0]
        heads = int(random.choice([*divisors, size * 2]))
        queries = int(np.lcm(heads, size) * random.integers(1, 3))
        yield Layout(axis), size * unit, size
        yield Layout(axis, (size * unit, 2 * size)), size * (unit + 2), size
        yield Layout(axis, units=(heads,)), heads * unit, size
        for groups in {1, heads}:
            parts = queries * unit, heads * unit, heads * unit
            yield Layout(axis, parts, (0, heads, heads), groups), sum(parts), size


def test_shares_of_random_tensors():
    """They join to the whole; their shapes and copies are as announced; equal shares hold equal values."""
    for layout, width, size in layouts(np.random.default_rng(0)):
        shape = [3, 3]
        shape[layout.axis] = width
        whole = numbered(*shape)
        shares = [layout.cut(whole, rank, size) for rank in range(size)]
        np.testing.assert_array_equal(layout.join(shares), whole, err_msg=f"{layout} over {size}")
        assert {share.shape for share in shares} == {tuple(layout.share_shape(shape, size))}
        values, counts = np.unique(np.concatenate([share.reshape(-1) for share in shares]), return_counts=True)
        assert len(values) == whole.size
        held, copies = dict(zip(values, counts)), layout.copies(width, size)
        for share in shares:
            lines = np.moveaxis(share, layout.axis, 0)
            assert all(held[value] == n for line, n in zip(lines, copies) for value in line)


def test_replicated_tensors_stay_whole():
    assert REPLICATED.share_shape([5, 7], 4) == [5, 7]
    assert REPLICATED.cut(numbered(5), 3, 4).shape == (5,)


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(0, units=(3,)), "3 heads.*width 12.*2 ranks.*divisor of 3 .1, 3., or to a multiple"),
        (Layout(0, (6, 3, 3), (0, 3, 3), 3), "3 groups of heads.*width 12.*2 ranks.*divisor of 3"),
        (Layout(0, (9, 3)), "width 9.*2 ranks.*1, 3, 9"),
    ],
)
def test_heads_that_cannot_be_shared_are_refused(layout, words):
    with pytest.raises(UsageError, match=words):
        layout.cut(numbered(12), 0, 2)


def test_one_group_lays_parts_one_after_the_other():
    fused = Fused("gate_up_fused_proj", ("gate_proj", "up_proj"), (3, 3))
    gate, up = numbered(2, 3), -numbered(2, 3)
    np.testing.assert_array_equal(fused.fuse([gate, up]), np.concatenate([gate, up], -1))


def test_groups_keep_queries_beside_their_key():
    fused = Fused("qkv_proj", ("q_proj", "k_proj", "v_proj"), (4, 2, 2), groups=2)
    q, k, v = np.array([1, 2, 3, 4]), np.array([10, 20]), np.array([100, 200])
    np.testing.assert_array_equal(fused.fuse([q, k, v]), [1, 2, 10, 100, 3, 4, 20, 200])


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("lead", [(), (5,)])
def test_separating_undoes_fusing(groups, lead):
    fused = Fused("qkv_proj", ("q_proj", "k_proj", "v_proj"), (8, 4, 2), groups)
    parts = [numbered(*lead, size) + 1000 * size for size in fused.sizes]
    for found, expected in zip(fused.separate(fused.fuse(parts)), parts):
        np.testing.assert_array_equal(found, expected)


def test_names_both_ways():
    fused = Fused("qkv_proj", ("q_proj", "k_proj", "v_proj"), (4, 2, 2), 2)
    whole, parts = "m.layers.0.attn.qkv_proj.weight", [f"m.layers.0.attn.{x}_proj.weight" for x in "qkv"]
    assert fused.part_names(whole) == parts
    assert [fused.whole_name(part) for part in parts] == [(whole, 0), (whole, 1), (whole, 2)]
    assert fused.part_names(parts[0]) is None and fused.whole_name(whole) is None
