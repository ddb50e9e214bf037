"""How much memory reading a checkpoint takes beside the run itself, and how many bytes each rank reads.

    python benchmarks/faults/load_memory.py [--megabytes 2000]

One process writes a checkpoint of about so many bytes (weights, moments, powers). Then jobs in other layouts build
their model and optimizer and read it. For each rank: the greatest resident memory while it reads, less that before; the
same of building the model; bytes read, and bytes of what the rank holds. Prints one JSON object; exit code 1
if a rank takes more than 1.2 x the largest tensor + 256 MB, or reads other bytes than it holds.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "parallel"), str(Path(__file__).resolve().parent)]

from layouts import LAYOUTS  # noqa: E402
from ranks import run_ranks  # noqa: E402
from results import write  # noqa: E402

HIDDEN, VOCABULARY, LAYER = 1024, 64000, 12_850_000
TARGET = "benchmarks/faults/load_memory.py"


def config(megabytes: int) -> Dict[str, Any]:
    """A LLaMA whose state in float32 takes about so many megabytes; its largest tensor are the token embeddings."""
    layers = max(1, round((megabytes * 1e6 / 12 - 2 * HIDDEN * VOCABULARY) / LAYER))
    return dict(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=2816,
        num_hidden_layers=layers,
        num_attention_heads=16,
        max_position_embeddings=64,
    )


def resident(key: str = "VmRSS") -> int:
    """Bytes of resident memory now, or ("VmHWM") the most since `forget_peak`."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) * 1024


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def run(payload: Dict[str, Any]) -> Any:
    import paddle
    from work_layouts import Run

    paddle.zeros([1])
    before = resident()
    forget_peak()
    made = Run({**payload["arguments"], "output_dir": payload["folder"]}, "Llama", payload["config"])
    return made, {
        "build_peak_mb": round((resident("VmHWM") - before) / 1e6),
        "state_mb": round((resident() - before) / 1e6),
    }


def make_checkpoint(payload: Dict[str, Any]) -> Dict[str, Any]:
    from paddlenlp.trainer.keeper import CheckpointKeeper
    from paddlenlp.trainer.state import TrainerState

    made, _ = run(payload)
    keeper = CheckpointKeeper(made.model, None, made.args, [])
    return {"folder": str(keeper.save(TrainerState(global_step=1), made.optimizer, made.step.lr_scheduler, None))}


def read(payload: Dict[str, Any]) -> Dict[str, Any]:
    from work_reshard import _needed

    from paddlenlp.trainer import restore
    from paddlenlp.utils.reading import bytes_read

    made, found = run(payload)
    folder = Path(payload["folder"]) / "checkpoint-1"
    start = time.time()
    restore.check(folder)
    found["verify_seconds"] = round(time.time() - start, 2)
    before, read_before, start = resident(), bytes_read.total, time.time()
    forget_peak()
    restore.load_model(made.model, folder)
    restore.load_optimizer(made.model, made.optimizer, made.step.lr_scheduler, folder, made.args)
    found["load_seconds"] = round(time.time() - start, 2)
    found["extra_mb"] = round((resident("VmHWM") - before) / 1e6)
    found["read_mb"] = round((bytes_read.total - read_before) / 1e6, 1)
    found["held_mb"] = round(_needed(made) / 1e6, 1)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=2000, help="size of the state")
    shape = config(parser.parse_args().megabytes)
    largest = 4 * HIDDEN * VOCABULARY
    result: Dict[str, Any] = {"largest_tensor_mb": largest // 10**6, "bound_mb": round((1.2 * largest + 256e6) / 1e6)}
    with tempfile.TemporaryDirectory() as folder:
        payload = {"config": shape, "folder": folder, "arguments": {}}
        run_ranks(1, f"{TARGET}:make_checkpoint", payload)
        files = (Path(folder) / "checkpoint-1").iterdir()
        result["checkpoint_mb"] = round(sum(os.path.getsize(path) for path in files) / 1e6)
        for name in ("one", "tp2", "sharding2 stage1", "sharding2 stage3"):
            arguments = LAYOUTS[name].arguments if name in LAYOUTS else {}
            world = LAYOUTS[name].world if name in LAYOUTS else 1
            result[name] = run_ranks(world, f"{TARGET}:read", {**payload, "arguments": arguments})
    ranks = [one for found in result.values() if isinstance(found, list) for one in found]
    worst, exact = max(one["extra_mb"] for one in ranks), all(one["read_mb"] == one["held_mb"] for one in ranks)
    result["ranks"] = len(ranks)
    en = (
        f"at most {worst} MB beside the state (bound {result['bound_mb']} MB); {len(ranks)} of {len(ranks)} ranks read "
    )
    zh = f"除状态之外至多 {worst} MB（上限 {result['bound_mb']} MB）；{len(ranks)} 个进程"
    en += "just the bytes they hold" if exact else "more than the bytes they hold"
    zh += "都只读自己所持的字节" if exact else "读了比所持更多的字节"
    passed = exact and worst <= result["bound_mb"]
    write("load_memory", passed, result, en, zh)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
