"""Every layout of four processes trains like one process."""

from __future__ import annotations

import pytest
from check_layouts import check
from layouts import cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("layout, model", cases(4))
def test_trains_like_one_process(layout, model, folder):
    check(layout, model, 4, folder)
