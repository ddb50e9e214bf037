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
