"""From the bytes of stored tensors to this rank's share of a parameter: nothing else is read, some rows at a time."""

from __future__ import annotations

from typing import Any, Iterator, NamedTuple, Sequence

import numpy as np

from paddlenlp.parallel.topology import topology
from paddlenlp.utils.host_memory import as_values, writable
from paddlenlp.utils.selection import Spans
from paddlenlp.utils.tensor_files import TensorFiles


class _Columns(NamedTuple):
    """Columns [start, stop), along the last axis, of stored tensor number `source`: one run of a parameter's share."""

    source: int
    start: int
    stop: int


def read_share(param: Any, names: Sequence[str], part: Any, stored: TensorFiles, flipped: bool) -> None:
    """Set `param`, in place, to this rank's share of what is stored.

    Args:
        names: the stored tensors it is fused of, or the one that it is or is a part of.
        part: which part of the fused tensor it is; None where it is no part.
        flipped: whether matrices lie with their axes swapped.
    """
    tp, at = topology().tp, 0
    spans = param.tp_layout.box(getattr(param, "whole_shape", param.shape), tp.rank, tp.size)
    with writable(param) as values:
        for run in _runs(param, [stored.shape(name)[0 if flipped else -1] for name in names], part, spans):
            box = [*spans[:-1], [(run.start, run.stop)]]
            target = values[..., at : at + run.stop - run.start]
            _copy(target.T if flipped else target, stored, names[run.source], box[::-1] if flipped else box, param)
            at += run.stop - run.start


def _copy(target: np.ndarray, stored: TensorFiles, name: str, box: Spans, param: Any) -> None:
    excerpt = stored.excerpt(name, box)
    for first, rows in excerpt.rows():
        target[first : first + len(rows)] = as_values(rows, excerpt.dtype, param.dtype)


def _runs(param: Any, widths: Sequence[int], part: Any, spans: Spans) -> Iterator[_Columns]:
    """Where the columns of this rank's share lie in the stored tensors, which are `widths` wide, in their order."""
    bounds = np.cumsum([0, *widths])
    columns = [np.arange(start, stop) for start, stop in zip(bounds, bounds[1:])]
    if part is not None:
        whole = param.fusion.separate(columns[0])[part]
    else:
        whole = columns[0] if len(columns) == 1 else param.fusion.fuse(columns)
    share = np.concatenate([whole[start:stop] for start, stop in spans[-1]])
    owner = np.searchsorted(bounds, share, "right") - 1
    ends = np.flatnonzero((np.diff(share) != 1) | (np.diff(owner) != 0)) + 1
    for first, last in zip([0, *ends], [*ends, len(share)]):
        source = int(owner[first])
        start = int(share[first] - bounds[source])
        yield _Columns(source, start, start + int(last - first))
