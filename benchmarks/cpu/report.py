"""Fills the tables of docs/performance.md and its twin: the floors of a step, the races, the ablation.

python benchmarks/cpu/report.py            # write the tables into both pages
python benchmarks/cpu/report.py --check    # exit code 1 if a page is not what the results say

A table stands between the comments `<!-- table: NAME -->` and `<!-- end -->`. The floors are computed; the others come
from results/race-SHAPE.json (compare.py) and results/ablation-a.json (ablation.py), and are "not measured yet" without.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

sys.path.insert(0, str(Path(__file__).resolve().parent))

import common  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results")
PAGES = {"en": ROOT / "docs/performance.md", "zh": ROOT / "docs/performance_zh.md"}
TABLE = re.compile(r"<!-- table: (?P<name>[\w-]+) -->\n.*?<!-- end -->", re.S)
MISSING = {"en": "Not measured yet.", "zh": "尚未测量。"}
HEADS = {
    "floors": {
        "en": ("shape", "parameters", "tokens", "GFLOP, causal", "GFLOP, all scores", "MB: weights", "MB: activations"),
        "zh": ("形状", "参数量", "token 数", "GFLOP，因果", "GFLOP，全部得分", "MB：权重", "MB：激活"),
    },
    "race": {
        "en": ("side", "tokens/s (median, range)", "we are", "CPU s/step", "peak MB", "first step after"),
        "zh": ("参赛者", "token/秒（中位数，范围）", "我们是其", "CPU 秒/步", "内存峰值 MB", "首步完成于"),
    },
    "ablation": {
        "en": ("without", "time of a step", "CPU time", "peak memory"),
        "zh": ("去掉", "每步时间", "CPU 时间", "内存峰值"),
    },
}


def parameters(size: Dict[str, int]) -> Dict[str, int]:
    """Elements of the matrices that take part in products, and of all weights."""
    hidden, kv = size["hidden"], size["hidden"] // size["heads"] * size["kv_heads"]
    layer = 2 * hidden * hidden + 2 * hidden * kv + 3 * hidden * size["inner"]
    products = size["layers"] * layer + size["vocab"] * hidden
    return {"products": products, "all": products + size["vocab"] * hidden + (2 * size["layers"] + 1) * hidden}


def tokens(size: Dict[str, int]) -> int:
    """Of a step."""
    return size["batch"] * size["seq"] * size["micro_batches"]


def flops(size: Dict[str, int], causal: bool = True) -> float:
    """Of a step: 6 for each token and element of a product; 12 for each layer, token, feature and key it sees, of which
    a causal model needs half."""
    scores = 12 * size["layers"] * size["hidden"] * size["seq"] * tokens(size)
    return 6 * parameters(size)["products"] * tokens(size) + scores * (0.5 if causal else 1)


def weight_bytes(size: Dict[str, int]) -> float:
    """Float32 weights and what belongs to them, each as often as a step must have it in the cores at least.

    Per micro batch: weights in the forward and the backward pass, gradients written, and read once more where they are
    added to. Once a step: gradients for their norm; then weight, gradient and two moments read, weight and moments
    written.
    """
    rounds = size["micro_batches"]
    return 4 * parameters(size)["all"] * (2 * rounds + rounds + (rounds - 1) + 1 + 4 + 3)


def activation_bytes(size: Dict[str, int]) -> float:
    """What a layer keeps for its backward pass, written once and read once: inputs of norms and products, q, k, v, the
    attention's output, gate and up; 6 hidden + 2 kv + 2 inner elements of a token."""
    hidden, kv = size["hidden"], size["hidden"] // size["heads"] * size["kv_heads"]
    return 8 * size["layers"] * tokens(size) * (6 * hidden + 2 * kv + 2 * size["inner"])


def floors() -> List[Sequence[str]]:
    """The rows of the floors."""
    return [
        (
            name.upper(), f"{parameters(size)['all'] / 1e6:.1f} M", f"{tokens(size):,}", f"{flops(size) / 1e9:.1f}",
            f"{flops(size, causal=False) / 1e9:.1f}", f"{weight_bytes(size) / 1e6:.0f}",
            f"{activation_bytes(size) / 1e6:.0f}",
        )
        for name, size in sorted(common.SHAPES.items())
    ]  # fmt: skip


def race(record: Dict[str, Any]) -> List[Sequence[str]]:
    """The rows of one race, the fastest side first."""
    rows = []
    for name, found in record["results"].items():
        speeds = [one["tokens_per_second"] for one in found]
        middle = {
            key: statistics.median(one[key] for one in found)
            for key in ("cpu_seconds_per_step", "first_step_after_start")
        }
        rows.append(
            (
                statistics.median(speeds), f"`{name}`: {found[0]['name']}",
                f"{statistics.median(speeds):.0f} ({min(speeds):.0f}–{max(speeds):.0f})",
                ratio_text(record["ratios"][name]), f"{middle['cpu_seconds_per_step']:.3f}",
                f"{max(one['peak_megabytes'] for one in found)}", f"{middle['first_step_after_start']:.1f} s",
            )
        )  # fmt: skip
    return [row[1:] for row in sorted(rows, reverse=True)]


def ratio_text(ratios: Dict[str, Any]) -> str:
    """The median, and the medians of the runs if there were several."""
    runs = ", ".join(f"{ratio:.2f}" for ratio in ratios["seconds_of_runs"])
    return f"{ratios['seconds']:.2f} x" + (f" ({runs})" if len(ratios["seconds_of_runs"]) > 1 else "")


def ablation(record: Dict[str, Any]) -> List[Sequence[str]]:
    """The rows of the ablation, in the order in which they were run."""
    kinds = ("ratios", "cpu_ratios", "memory_ratios")
    return [(name, *(f"{record[kind][name]:.2f} x" for kind in kinds)) for name in record["ratios"]]


def table(name: str, language: str) -> str:
    """The table NAME: floors, race-a, race-b, race-c, ablation-a."""
    kind = name.partition("-")[0]
    path: Optional[Path] = None if kind == "floors" else RESULTS / f"{name}.json"
    if path and not path.exists():
        return MISSING[language]
    record = json.loads(path.read_text(encoding="utf-8")) if path else {}
    rows = floors() if kind == "floors" else race(record) if kind == "race" else ablation(record)
    lines = [HEADS[kind][language], ["---"] * len(HEADS[kind][language]), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(page: str, language: str) -> str:
    """The page with its tables as the results are."""
    return TABLE.sub(
        lambda found: f"<!-- table: {found['name']} -->\n{table(found['name'], language)}\n<!-- end -->", page
    )


def main() -> None:
    """Write or check both pages."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for language, path in PAGES.items():
        text = path.read_text(encoding="utf-8")
        if check and filled(text, language) != text:
            sys.exit(f"{path} is not what the results say: run python benchmarks/cpu/report.py")
        path.write_text(filled(text, language), encoding="utf-8")


if __name__ == "__main__":
    main()
