"""In bf16 with low-precision parameters layouts train alike, as far as rounding lets them.

Products are rounded to bf16 where they are made, so a layout that cuts one rounds elsewhere. How far that leads is seen
by one process that takes the batch in one piece.
"""

from __future__ import annotations

import pytest
from check_layouts import gap, low_precision, relative
from layouts import LOW_PRECISION_LAYOUTS


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("layout", LOW_PRECISION_LAYOUTS)
def test_trains_like_one_process(layout, folder):
    curves = low_precision(str(folder))
    alone = curves["alone"]
    spread = gap(curves["in one piece"], alone)
    assert 0 < spread < 1e-3
    for own in curves[layout]:
        assert relative(own[0], alone[0]) < 2e-3
        assert gap(own, alone) < 3 * spread
