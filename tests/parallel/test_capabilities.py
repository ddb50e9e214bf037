"""The documents' table of families x capabilities says what the runs of today give."""

from __future__ import annotations

import pytest
from capabilities import DOCUMENTS, WRONG, documented, run_all, table
from ranks import ROOT


@pytest.fixture(scope="module")
def found():
    return run_all()


@pytest.mark.parametrize("name", DOCUMENTS)
def test_table_of_the_document(name, found):
    assert documented(ROOT / name) == table(found)


def test_everything_works(found):
    failed = {family: [column for column, cell in row.items() if cell == WRONG] for family, row in found.items()}
    assert not any(failed.values()), failed
