"""Families x capabilities: which layouts each family is run in, and the table of the documents that says so.

    python tests/parallel/capabilities.py

runs them all and writes the table into README.md and its Chinese twin; `test_capabilities.py` runs them again
and refuses a document that says anything else.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from layouts import FULL, LAYOUTS, SP, Layout, Model
from ranks import ROOT, run_ranks
from work_layouts import SAVED

sys.path.append(str(ROOT / "tests" / "transformers"))
from families import ROWS

WORK = "tests/parallel/work_layouts.py"
DOCUMENTS = ("README.md", "README_zh.md")
BEGIN, END = "<!-- capabilities: made by tests/parallel/capabilities.py -->", "<!-- end of capabilities -->"
STEPS = 2

CORE: Dict[str, Any] = {"recompute": True, "recompute_granularity": "core_attn"}
PAIRS: Dict[str, Any] = {"per_device_train_batch_size": 2}
"""Where fewer than four ranks read different data: half as many micro batches, to save time."""

RUN: Dict[str, Layout] = {
    "DP": LAYOUTS["dp2"],
    "TP": LAYOUTS["tp2"],
    "PP": LAYOUTS["pp2"],
    "SP": LAYOUTS["tp2+sp"],
    "TP + PP + SP": LAYOUTS["tp2pp2+sp"],
    "selective recompute": Layout(2, {"tensor_parallel_degree": 2, **SP, **CORE}),
    "stage 1 + recompute": Layout(2, {**LAYOUTS["sharding2 stage1"].arguments, **FULL}),
    "stage 1 + DP": LAYOUTS["dp2 sharding2 stage1"],
    "stage 2 + recompute": Layout(2, {**LAYOUTS["sharding2 stage2"].arguments, **FULL}),
    "stage 2 + DP": LAYOUTS["dp2 sharding2 stage2"],
    "stage 3 + recompute": LAYOUTS["sharding2 stage3 recompute"],
    "stage 3 + DP": LAYOUTS["dp2 sharding2 stage3"],
    "sep": LAYOUTS["sep2"],
    "CP": LAYOUTS["cp2"],
    "EP": LAYOUTS["ep2"],
}
"""Column of the table -> the layout that is run."""

CHECKPOINT, GENERATE, FLASH = "checkpoint to another layout", "generate", "flash attention"
COLUMNS = (*RUN, CHECKPOINT, GENERATE, FLASH)
FINE, WRONG, NOTHING, NOT_RUN = "✅", "❌", "–", "GPU, not run"

FAMILIES: Dict[str, Model] = {row.name: Model(row.prefix, row.config) for row in ROWS}
"""Row of the table -> a tiny model of the family."""

Ranks = List[Dict[str, Any]]


def run_all() -> Dict[str, Dict[str, str]]:
    """Family -> column -> cell."""
    with tempfile.TemporaryDirectory() as folder:
        two, four = (_launch(world, folder) for world in (2, 4))
    return {row.name: {column: _cell(two, four, row.name, column) for column in COLUMNS} for row in ROWS}


def _launch(world: int, folder: str) -> Ranks:
    layouts = {name: layout for name, layout in RUN.items() if layout.world == world}
    payload = dict(
        folder=folder,
        steps=STEPS,
        models={name: list(model) for name, model in FAMILIES.items()},
        layouts={name: {**(PAIRS if _few(layout) else {}), **layout.arguments} for name, layout in layouts.items()},
        cases=[(name, row.name) for row in ROWS for name in layouts if _applies(name, row.name)],
    )
    return run_ranks(world, f"{WORK}:capabilities", payload)


def _few(layout: Layout) -> bool:
    return layout.world == 2 or layout.arguments["pipeline_parallel_degree"] > 1


def _applies(column: str, family: str) -> bool:
    """Whether the family has what the column is about."""
    return column != "EP" or next(row.experts for row in ROWS if row.name == family)


def _cell(two: Ranks, four: Ranks, family: str, column: str) -> str:
    if column == FLASH:
        return NOT_RUN
    if not _applies(column, family):
        return NOTHING
    one = next(found[f"one | {family}"] for found in two if f"one | {family}" in found)
    saved = [(name, found[f"{name} | {family}"]) for found in two for name in SAVED]
    if column == CHECKPOINT:
        fine = all(found["saved"] and found["in the other"] and one[name] for name, found in saved)
    elif column == GENERATE:
        fine = all(found["tokens"] == one[f"{name} tokens"] for name, found in saved)
    else:
        fine = all(_equal(rank[f"{column} | {family}"], one) for rank in (two if RUN[column].world == 2 else four))
    return FINE if fine else WRONG


def _equal(found: Dict[str, List[float]], expected: Dict[str, List[float]]) -> bool:
    """Whether losses and gradient norms agree to 1e-6."""
    pairs = [pair for key in ("losses", "norms") for pair in zip(found[key], expected[key])]
    return all(abs(own - other) <= 1e-6 * abs(other) for own, other in pairs)


def table(found: Dict[str, Dict[str, str]]) -> str:
    """The results as a Markdown table."""
    rows = [["", *COLUMNS], ["---"] * (len(COLUMNS) + 1)]
    rows += [[row.name, *(found[row.name][column] for column in COLUMNS)] for row in ROWS]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def documented(path: Path) -> str:
    """The table that stands in a document."""
    text = path.read_text(encoding="utf-8")
    return text[text.index(BEGIN) + len(BEGIN) : text.index(END)].strip()


def main() -> None:
    made = table(run_all())
    for name in DOCUMENTS:
        path = ROOT / name
        text = path.read_text(encoding="utf-8")
        start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
        path.write_text(f"{text[:start]}\n\n{made}\n\n{text[end:]}", encoding="utf-8")
    sys.stdout.write(made + "\n")


if __name__ == "__main__":
    main()
