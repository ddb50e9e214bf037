"""The plan as text: tables and bars of memory; and as plain values for JSON."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any, Dict, List, Sequence, Tuple

from .memory import GIB, KINDS, RESERVED, RankMemory, fullest

if TYPE_CHECKING:
    from .nearest import Near

SIGNS = "pgmvalcGw"
"""The sign of each of KINDS in a bar."""

SHORT = ("weights", "grads", "masters", "moments", "activations", "loss", "exchange", "gathered", "working")
"""Their heads in a table."""

COLORS = (34, 36, 35, 95, 32, 33, 31, 94, 37)

WIDTH = 64
"""Characters of a bar that fills the device."""

BEYOND = 16
"""Characters that are shown of what does not fit."""


def gib(size: float) -> str:
    """Bytes as GiB, with as many digits as are needed to see them."""
    value = size / GIB
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}" if value >= 0.005 or not value else f"{value:.1g}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Columns aligned: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.ljust(width) if not at else cell.rjust(width) for at, (cell, width) in enumerate(zip(row, widths))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def memory_table(ranks: Sequence[RankMemory]) -> str:
    """By kind, at the peak of each pipeline rank. Ranks that are alike in all figures are one row."""
    used = [kind for kind in KINDS if any(rank.peak.bytes[kind] for rank in ranks)]
    heads = [short for kind, short in zip(KINDS, SHORT) if kind in used]
    rows = [["pp rank", *heads, "peak", "gaps", "needs"]]
    for name, rank in _alike(ranks):
        sizes = [gib(rank.peak.bytes[kind]) for kind in used]
        rows.append([name, *sizes, gib(rank.peak.total), gib(rank.fragmentation), gib(rank.needed)])
    return table(rows)


def _alike(ranks: Sequence[RankMemory]) -> List[Tuple[str, RankMemory]]:
    """Runs of neighbours that show the same figures: "3-6" and the first of them."""
    runs: List[List[RankMemory]] = []
    for rank in ranks:
        if runs and _shown(runs[-1][0]) == _shown(rank):
            runs[-1].append(rank)
        else:
            runs.append([rank])
    return [(_span(run[0].place.pp, run[-1].place.pp), run[0]) for run in runs]


def _shown(rank: RankMemory) -> List[str]:
    return [gib(size) for size in (*rank.peak.bytes.values(), rank.needed)]


def _span(first: int, last: int) -> str:
    return str(first) if first == last else f"{first}-{last}"


def bars(ranks: Sequence[RankMemory], room: float, colored: bool = False) -> str:
    """A bar of each rank's peak by kind. The mark is where the device ends; bars that are far beyond it are cut."""
    lines = []
    for name, rank in _alike(ranks):
        signs = _signs(rank, WIDTH / room)
        inside, beyond = signs[:WIDTH].ljust(WIDTH), signs[WIDTH : WIDTH + BEYOND]
        cut = ">" if len(signs) > WIDTH + BEYOND else ""
        lines.append(f"{name:>7} {_painted(inside, colored)}|{_painted(beyond, colored)}{cut}".rstrip())
    used = [f"{sign} {kind}" for sign, kind in zip(SIGNS, KINDS) if any(rank.peak.bytes[kind] for rank in ranks)]
    return "\n".join([*lines, f"{'':7} {', '.join(used)}, . gaps and reserve; | end of the device"])


def _signs(rank: RankMemory, scale: float) -> str:
    """A sign for each `1 / scale` bytes."""
    ends, found = 0.0, ""
    for sign, kind in zip(SIGNS, KINDS):
        ends += rank.peak.bytes[kind] * scale
        found += sign * (round(ends) - len(found))
    return found + "." * (round(rank.needed * scale) - len(found))


def _painted(signs: str, colored: bool) -> str:
    if not colored:
        return signs
    colors = dict(zip(SIGNS, COLORS))
    runs = ((sign, "".join(run)) for sign, run in groupby(signs))
    return "".join(f"\033[{colors[sign]}m{run}\033[0m" if sign in colors else run for sign, run in runs)


def verdict(ranks: Sequence[RankMemory], room: float) -> str:
    """Whether it fits, how much is needed, when, and where."""
    worst = fullest(ranks)
    where = f" on pipeline rank {worst.place.pp}" if len(ranks) > 1 else ""
    share = worst.needed / room
    told = f"needs {gib(worst.needed)} of {gib(room)} GiB ({share:.0%}){where}: at most {gib(worst.peak.total)}"
    told += f" in use ({worst.peak.when}), {gib(worst.fragmentation)} for gaps"
    told += f", {gib(RESERVED)} beside Paddle" if worst.on_gpu else ""
    return f"{'fits' if share <= 1 else 'DOES NOT FIT'}: {told}"


def parts_table(rank: RankMemory) -> str:
    """What a micro batch leaves for its backward pass, by part."""
    parts = sorted(rank.activations.items(), key=lambda pair: -pair[1])
    whole = max(1.0, sum(rank.activations.values()))
    rows = [["activations of a micro batch", "GiB", "share"]]
    rows += [[name, gib(size), f"{size / whole:.0%}"] for name, size in parts if size]
    return table([*rows, ["all", gib(sum(rank.activations.values())), ""]])


def moments_table(rank: RankMemory) -> str:
    """The moments of a step at which much is in use."""
    rows = [["moment", "GiB"], *([moment.when, gib(moment.total)] for moment in rank.timeline)]
    return table(rows)


def near_table(near: Sequence[Near], seconds: float) -> str:
    """The nearest layouts that fit, and what each costs against the one asked for."""
    if not near:
        return "No layout within three changes fits: take more devices, or a smaller model."
    rows = [["nearest layouts that fit", "needs GiB", "time of a step"]]
    for number, one in enumerate(near, 1):
        told = f"{number}  {', '.join(one.changes)}"
        rows.append([told, gib(one.bytes), f"{one.seconds / seconds - 1:+.0%}"])
    return "\n".join([table(rows), "", *(f"{number}  {one.flags}" for number, one in enumerate(near, 1))])


def as_values(ranks: Sequence[RankMemory], room: float, near: Sequence[Near] = ()) -> Dict[str, Any]:
    """The same for JSON: sizes in bytes."""
    worst = fullest(ranks)
    return {
        "fits": worst.needed <= room,
        "device_bytes": int(room),
        "needed_bytes": round(worst.needed),
        "peak_bytes": round(worst.peak.total),
        "ranks": [_rank_values(rank) for rank in ranks],
        "nearest": [
            {
                "changes": list(one.changes),
                "flags": one.flags,
                "needed_bytes": round(one.bytes),
                "seconds_per_step": one.seconds,
            }
            for one in near
        ],
    }


def _rank_values(rank: RankMemory) -> Dict[str, Any]:
    return {
        "pipeline_rank": rank.place.pp,
        "stages": list(rank.stages),
        "peak": rank.peak.when,
        "peak_bytes": round(rank.peak.total),
        "needed_bytes": round(rank.needed),
        "micro_batches_in_flight": rank.in_flight,
        "bytes_at_peak": {kind: round(size) for kind, size in rank.peak.bytes.items()},
        "activations": {part: round(size) for part, size in rank.activations.items()},
        "moments": [{"when": moment.when, "bytes": round(moment.total)} for moment in rank.timeline],
    }
