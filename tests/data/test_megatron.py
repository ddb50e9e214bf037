"""Datasets of Megatron-core, and finding out which format a dataset is in."""

from __future__ import annotations

import numpy as np
import pytest

from paddlenlp.data import make_dataset
from paddlenlp.data.megatron import format_of, open_any
from paddlenlp.utils.errors import UsageError
from tests.data.other_formats import write_with_modes
from tests.data.test_older_formats import write_lazy, write_legacy


def test_formats(tmp_path, make_pair):
    plain = make_pair("plain", sizes=(5, 3, 7), dtype="int32")
    prefixes = {"mmap": plain, **{kind: str(tmp_path / kind) for kind in ("lazy", "legacy", "Megatron")}}
    write_lazy(prefixes["lazy"])
    write_legacy(prefixes["legacy"])
    write_with_modes(plain, prefixes["Megatron"])
    expected = make_dataset(plain)
    for kind, prefix in prefixes.items():
        assert format_of(prefix) == kind
        store = open_any(prefix)
        for name in ("tokens", "sizes", "pointers", "doc_idx"):
            assert np.array_equal(getattr(store, name), getattr(expected, name)), (kind, name)


def test_sequences_that_are_not_text(tmp_path, make_pair):
    prefix = str(tmp_path / "images")
    write_with_modes(make_pair(), prefix, modes=[0, 2, 0, 2, 0])
    with pytest.raises(
        UsageError, match="2 of its sequences are of another mode than text. Expected mode 0, found mode 2"
    ):
        open_any(prefix)
    assert len(open_any(prefix, ignore_modes=True)) == 5


def test_damage_is_found_in_them_too(tmp_path, make_pair):
    prefix = str(tmp_path / "cut")
    write_with_modes(make_pair(), prefix)
    with open(prefix + ".bin", "r+b") as file:
        file.truncate(20)
    with pytest.raises(UsageError, match="its length does not fit"):
        open_any(prefix)
    with pytest.raises(UsageError, match="incomplete: missing"):
        open_any(str(tmp_path / "absent"))
