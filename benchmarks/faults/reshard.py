"""Every layout goes on from the checkpoint of every other: the long form of tests/parallel/test_reshard_matrix.py.

    python benchmarks/faults/reshard.py [--precisions float32 bfloat16] [--steps 21]

In every cell (layout that wrote the checkpoint, layout that reads it) all tensors are compared bit for bit, and the
losses of the next steps with those of the run that was not interrupted. The result has for each precision the number of
cells, of tensors that differ, and the largest relative difference of the first loss and of the others; it goes to
results/reshard.json. Exit code 1 if a tensor differs, or in float32 a first loss by more than 1e-6 or another by more
than 1e-5.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List, Tuple

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "parallel"), str(Path(__file__).resolve().parent)]

from ranks import run_ranks  # noqa: E402
from results import write  # noqa: E402
from work_reshard import MATRIX, PRECISIONS, WORLD  # noqa: E402


def summary(ranks: List[Any], precision: str) -> Dict[str, Any]:
    """The worst of all cells and ranks."""
    found: Dict[str, Any] = {"cells": 0, "differing": 0, "first_loss": 0.0, "later_losses": 0.0, "bitwise_losses": 0}
    written = ranks[0][precision]["written"]
    for target, layout in MATRIX.items():
        for source in MATRIX:
            cells = [rank[precision]["read"][target][source] for rank in ranks[: layout.world]]
            expected = written[source]["losses"]
            gaps = [[abs(a - b) / b for a, b in zip(cell["losses"], expected)] for cell in cells]
            found["cells"] += 1
            found["differing"] += sum(len(cell["differing"]) for cell in cells)
            found["bitwise_losses"] += all(max(gap) == 0 for gap in gaps)
            found["first_loss"] = max(found["first_loss"], *(gap[0] for gap in gaps))
            found["later_losses"] = max(found["later_losses"], *(max(gap[1:], default=0.0) for gap in gaps))
    return found


def sentences(result: Dict[str, Any], steps: int) -> Tuple[str, str]:
    """The result in English and in Chinese."""
    cells, differing = (sum(one[name] for one in result.values()) for name in ("cells", "differing"))
    gaps = {name: f"{one['first_loss']:.1e} / {one['later_losses']:.1e}" for name, one in result.items()}
    shown = ", ".join(f"{name} {gap}" for name, gap in gaps.items())
    return (
        f"{cells} cells, {differing} tensors differ; losses of the first / the next {steps - 1} steps differ by at "
        f"most {shown}",
        f"{cells} 格，{differing} 个张量不同；第一步 / 其后 {steps - 1} 步的损失最多相差 {shown}",
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--precisions", nargs="+", choices=list(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--steps", type=int, default=21, help="steps after the checkpoint")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        payload = {"folder": folder, "precisions": asked.precisions, "losses": "all", "steps": asked.steps}
        ranks = run_ranks(WORLD, "tests/parallel/work_reshard.py:matrix", payload, timeout=7200)
    result = {precision: summary(ranks, precision) for precision in asked.precisions}
    strict = result.get("float32", {"first_loss": 0.0, "later_losses": 0.0})
    fits = strict["first_loss"] <= 1e-6 and strict["later_losses"] <= 1e-5
    passed = fits and not any(one["differing"] for one in result.values())
    write("reshard", passed, {"steps": asked.steps, **result}, *sentences(result, asked.steps))
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
