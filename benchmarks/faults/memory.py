"""Host memory that saving and loading a checkpoint take on top of what the run holds, and how long training waits.

    python benchmarks/faults/memory.py                    # LLaMA with a state of 2 GB: one process, tp2, dp2
    python benchmarks/faults/memory.py --scale 0.1 --layouts one

A rank's memory is its resident set, looked at every few milliseconds; pages of files are not among it. Promised are at
most 1.2 x the largest tensor + 256 MB per rank, and for a save beside the training (`async_save`), which holds a copy
of what the rank saves besides, a wait of less than 10 % of the plain save's. Writes `results/memory.json` and
`results/async_save.json`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Dict, Iterator, List

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/parallel"), str(Path(__file__).resolve().parent)]

LAYOUTS: Dict[str, Dict[str, Any]] = {
    "one": {},
    "tp2": {"tensor_parallel_degree": 2},
    "dp2": {},
    "sharding2 stage1": {"sharding": "stage1", "sharding_parallel_degree": 2},
    "sharding2 stage3": {"sharding": "stage3", "sharding_parallel_degree": 2},
}
SAVES = 3
"""Saves of each kind; the median counts."""

PART = 1.2
SPARE = 256 << 20


def model_config(scale: float) -> Dict[str, Any]:
    """A LLaMA whose weights and moments, float32, are `scale` x 2 GB."""
    hidden = max(1, int(8 * scale**0.5)) * 128
    vocab = 32000 * hidden // 1024
    return dict(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3 // 64 * 64,
        num_hidden_layers=8,
        num_attention_heads=hidden // 64,
        max_position_embeddings=64,
    )


class Watch:
    """The most that this process holds while a block runs, beyond what it held before, in bytes."""

    def __init__(self) -> None:
        self.extra = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        over, before = threading.Event(), resident()
        self.extra = 0

        def look() -> None:
            while not over.wait(0.003):
                self.extra = max(self.extra, resident() - before)

        thread = threading.Thread(target=look)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def resident() -> int:
    """The resident set of this process, in bytes."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def rank(payload: Dict[str, Any]) -> Dict[str, Any]:
    """What one rank measures."""
    from work_layouts import Run

    from paddlenlp.trainer import restore

    run = Run({**payload["layout"], "output_dir": payload["folder"]}, "Llama", payload["config"])
    found: Dict[str, Any] = {"state": _state_bytes(run), "largest": _largest(run)}
    found["save"] = _measure(run, "", range(1, SAVES + 1))
    found["async"] = _measure(run, "async_save", range(SAVES + 1, 2 * SAVES + 1))
    folder, watch = Path(payload["folder"]) / "checkpoint-1", Watch()
    with watch():
        restore.load_model(run.model, folder)
        restore.load_optimizer(run.model, run.optimizer, run.step.lr_scheduler, folder, run.args)
    found["load_extra"] = watch.extra
    return found


def _measure(run: Any, words: str, steps: Any) -> Dict[str, Any]:
    """Seconds that the training thread is held up by each save and seconds until it is there, and the most memory."""
    from paddlenlp.parallel.topology import topology
    from paddlenlp.trainer.keeper import CheckpointKeeper
    from paddlenlp.trainer.state import TrainerState

    run.args.unified_checkpoint_config = words
    keeper, watch = CheckpointKeeper(run.model, None, run.args, []), Watch()
    keeper.check_space(run.optimizer)
    held, whole, extra = [], [], []
    for step in steps:
        topology().world.group.barrier()
        begin = time.monotonic()
        with watch():
            keeper.save(TrainerState(global_step=step), run.optimizer, run.step.lr_scheduler, None)
            held.append(time.monotonic() - begin)
            keeper.finish()
            whole.append(time.monotonic() - begin)
        extra.append(watch.extra)
    return {"held": held, "whole": whole, "extra": max(extra)}


def _state_bytes(run: Any) -> int:
    return 12 * sum(piece.stop - piece.start for piece in run.optimizer.pieces)


def _largest(run: Any) -> int:
    from math import prod

    return max(4 * prod(getattr(param, "whole_shape", param.shape)) for param in run.model.parameters())


def measure(layout: str, scale: float, folder: Path) -> Dict[str, Any]:
    """One layout: the worst of its ranks."""
    from ranks import run_ranks

    target = folder / layout.replace(" ", "_")
    payload = {"layout": LAYOUTS[layout], "config": model_config(scale), "folder": str(target)}
    found: List[Any] = run_ranks(1 if layout == "one" else 2, "benchmarks/faults/memory.py:rank", payload)
    shutil.rmtree(target)
    bound = PART * found[0]["largest"] + SPARE
    seconds = {kind: max(sorted(rank[kind]["held"])[SAVES // 2] for rank in found) for kind in ("save", "async")}
    return {
        "state_bytes_of_a_rank": found[0]["state"],
        "largest_tensor_bytes": found[0]["largest"],
        "bound_bytes": int(bound),
        "save_extra_bytes": max(rank["save"]["extra"] for rank in found),
        "load_extra_bytes": max(rank["load_extra"] for rank in found),
        "save_seconds": round(seconds["save"], 3),
        "async_wait_seconds": round(seconds["async"], 4),
        "async_wait_share": round(seconds["async"] / seconds["save"], 4),
        "async_whole_seconds": [round(value, 3) for value in found[0]["async"]["whole"]],
    }


def report(found: Dict[str, Dict[str, Any]]) -> bool:
    """Write both results; whether all that is promised holds."""
    from results import write

    fits = all(max(one["save_extra_bytes"], one["load_extra_bytes"]) < one["bound_bytes"] for one in found.values())
    quick = all(one["async_wait_share"] < 0.1 for one in found.values())
    parts = [
        f"{name} {one['save_extra_bytes'] >> 20} / {one['load_extra_bytes'] >> 20} MB" for name, one in found.items()
    ]
    bound = next(iter(found.values()))["bound_bytes"] >> 20
    write(
        "memory",
        fits,
        {"layouts": found},
        f"saving / loading a state of 2 GB takes at most, per rank: {', '.join(parts)} (bound {bound} MB)",
        f"保存 / 加载 2 GB 的状态，每个进程最多额外占用：{'，'.join(parts)}（上限 {bound} MB）",
    )
    waits = [
        f"{name} {one['async_wait_seconds']:.2f} / {one['save_seconds']:.2f} s ({one['async_wait_share']:.1%})"
        for name, one in found.items()
    ]
    write(
        "async_save",
        quick,
        {"layouts": found},
        f"training waits / a plain save takes: {', '.join(waits)}",
        f"训练等待的时间 / 普通保存的时间：{'，'.join(waits)}",
    )
    return fits and quick


def main() -> int:
    """Measure and report; exit code 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scale", type=float, default=1.0, help="size of the state, x 2 GB")
    parser.add_argument("--layouts", nargs="+", default=["one", "tp2", "dp2"], choices=list(LAYOUTS))
    parser.add_argument("--folder", help="on the disk to be measured; default: a temporary one")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = {layout: measure(layout, args.scale, Path(folder)) for layout in args.layouts}
    return 0 if report(found) else 1


if __name__ == "__main__":
    raise SystemExit(main())
