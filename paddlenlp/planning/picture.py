"""The memory of the ranks as a picture: a stacked bar for each."""

from __future__ import annotations

from pathlib import Path
from typing import Sequence

from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_path

from .memory import GIB, KINDS, RankMemory


def draw_memory(ranks: Sequence[RankMemory], room: float, title: str, path: Path) -> None:
    """Write a PNG.

    Raises:
        UsageError: matplotlib, which comes with visualdl, is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            f"{path}: pictures need matplotlib, which is not installed: pip install matplotlib, or leave out --picture "
            "(the bars in the terminal show the same)"
        ) from None
    figure = Figure(figsize=(9, 1.8 + 0.35 * len(ranks)), layout="constrained")
    axes, names = figure.add_subplot(), [f"pipeline rank {rank.place.pp}" for rank in ranks]
    left = [0.0] * len(ranks)
    for number, kind in enumerate(KINDS):
        sizes = [rank.peak.bytes[kind] / GIB for rank in ranks]
        if any(sizes):
            axes.barh(names, sizes, left=left, label=kind, color=f"C{number}")
            left = [start + size for start, size in zip(left, sizes)]
    rest = [rank.needed / GIB - start for rank, start in zip(ranks, left)]
    axes.barh(names, rest, left=left, label="gaps and reserve", color="0.85")
    axes.axvline(room / GIB, color="black", linestyle="--", label=f"device: {room / GIB:.1f} GiB")
    axes.invert_yaxis()
    axes.set(title=title, xlabel="GiB at the peak of each rank")
    axes.legend(fontsize="small", loc="upper left", bbox_to_anchor=(1.0, 1.0))
    with atomic_path(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
