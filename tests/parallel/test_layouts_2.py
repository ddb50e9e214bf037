"""Every layout of two processes trains like one process; so does one process with the batch in one piece."""

from __future__ import annotations

import pytest
from check_layouts import check, gap, reference, relative
from layouts import MODELS, cases, steps_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.mark.parametrize("layout, model", cases(2))
def test_trains_like_one_process(layout, model, folder):
    check(layout, model, 2, folder)


@pytest.mark.parametrize("model", MODELS)
def test_the_split_into_micro_batches_does_not_matter(model, folder):
    found = reference(str(folder))[model]
    pieces, whole = found[str(steps_of(model))], found["in one piece"]
    assert relative(whole["losses"][0], pieces["losses"][0]) < 1e-6
    assert relative(whole["norms"][0], pieces["norms"][0]) < 1e-6
    assert gap(whole["losses"], pieces["losses"]) < 1e-5
