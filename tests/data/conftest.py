"""A small dataset most tests of this room read."""

from __future__ import annotations

import numpy as np
import pytest

from paddlenlp.data import MMapIndexedDatasetBuilder
from paddlenlp.data.sidecar import sidecar_path


@pytest.fixture
def make_pair(tmp_path):
    """`make(name, sizes, dtype, sidecar)` writes a dataset of tokens 0, 1, 2 ... and gives its prefix."""

    def make(name="text", sizes=(5, 3, 7, 2, 9), dtype="uint16", sidecar=False, folder=tmp_path):
        folder.mkdir(exist_ok=True)
        prefix = str(folder / name)
        builder = MMapIndexedDatasetBuilder(prefix, dtype)
        start = 0
        for size in sizes:
            builder.add_item(np.arange(start, start + size))
            builder.end_document()
            start += size
        builder.finalize()
        if not sidecar:
            (folder / (name + ".meta.json")).unlink()
        assert sidecar_path(prefix).endswith(name + ".meta.json")
        return prefix

    return make
