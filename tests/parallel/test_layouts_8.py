"""Layouts of eight and sixteen processes train like one process."""

from __future__ import annotations

import pytest
from check_layouts import check
from layouts import cases


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("world, layout, model", [(world, *case) for world in (8, 16) for case in cases(world)])
def test_trains_like_one_process(world, layout, model, folder):
    check(layout, model, world, folder)
