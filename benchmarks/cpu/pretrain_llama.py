"""The toolkit as users run it: `llm/run_pretrain.py` with its log lines and metrics.jsonl, watched from outside.

Its samples come from a dataset of the same tokens, in an order of its own, so its losses are like those of the other
sides, not equal. Steps end where its log lines do.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Tuple

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).resolve().parent), str(ROOT)]

import common  # noqa: E402

ARGS = common.parse_arguments()

import numpy as np  # noqa: E402

from paddlenlp.data import MMapIndexedDatasetBuilder  # noqa: E402

LINE = re.compile(r"\bloss: ([\d.]+),.*\bglobal_step: (\d+)")
DOCUMENT = 700


def prepare(work: Path) -> None:
    """The dataset and a tokenizer for it, where missing."""
    if not (work / "dataset/train.idx").exists():
        (work / "dataset").mkdir(exist_ok=True)
        tokens = np.load(work / "tokens.npy")
        with MMapIndexedDatasetBuilder(str(work / "dataset/train"), np.uint16) as builder:
            for start in range(0, len(tokens), DOCUMENT):
                builder.add_item(tokens[start : start + DOCUMENT])
                builder.end_document()
            builder.finalize()
    folder = work / "tokenizer"
    if not (folder / "tokenizer_config.json").exists():
        folder.mkdir(exist_ok=True)
        words = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{number}": number for number in range(3, 32000)}}
        model = {"type": "WordLevel", "vocab": words, "unk_token": "<pad>"}
        form = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
        parts = {"pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None, "model": model}
        (folder / "tokenizer.json").write_text(json.dumps({**form, **parts}), encoding="utf-8")
        roles = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(roles), encoding="utf-8")


def arguments(out: str) -> Dict[str, Any]:
    """The file of arguments of the run."""
    size = common.SHAPES[ARGS.shape]
    return {
        "model_name_or_path": str(ARGS.work / ARGS.shape),
        "tokenizer_name_or_path": str(ARGS.work / "tokenizer"),
        "input_dir": str(ARGS.work / "dataset"),
        "output_dir": out,
        "continue_training": True,
        "do_train": True,
        "split": "1,0,0",
        "max_seq_length": size["seq"],
        "per_device_train_batch_size": size["batch"],
        "gradient_accumulation_steps": size["micro_batches"],
        "max_steps": ARGS.steps,
        "learning_rate": 1e-3,
        "min_learning_rate": 1e-3,
        "warmup_steps": 10,
        "lr_scheduler_type": "constant_with_warmup",
        "weight_decay": common.WEIGHT_DECAY,
        "adam_beta1": common.BETAS[0],
        "adam_beta2": common.BETAS[1],
        "adam_epsilon": common.ADAM_EPS,
        "max_grad_norm": common.CLIP,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "device": "cpu",
    }


def cpu_seconds(process: int) -> float:
    """User and system time of a running process (Linux)."""
    fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def watch(command: List[str]) -> Tuple[List[float], List[float], List[float], int]:
    """Run it. Gives, for the end of each step, the time since its start and its CPU time; the losses; its peak memory
    in kilobytes."""
    ends: List[float] = []
    cpu: List[float] = []
    losses: List[float] = []
    text: List[str] = []
    start = time.perf_counter()
    run = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert run.stdout is not None
    for line in run.stdout:
        text.append(line)
        found = LINE.search(line)
        if found and int(found.group(2)) == len(ends) + 1:
            ends.append(time.perf_counter() - start)
            cpu.append(cpu_seconds(run.pid))
            losses.append(float(found.group(1)))
    _, status, usage = os.wait4(run.pid, 0)
    if status or len(ends) != ARGS.steps:
        sys.exit(f"{' '.join(command)} ended with {len(ends)} steps:\n{''.join(text[-40:])}")
    print("".join(line for line in text if "used" in line or "operations" in line), file=sys.stderr)
    return ends, cpu, losses, usage.ru_maxrss


def main() -> None:
    """Train and print the result."""
    prepare(ARGS.work)
    ARGS.work = ARGS.work.resolve()
    with tempfile.TemporaryDirectory() as out:
        config = Path(out) / "arguments.json"
        config.write_text(json.dumps(arguments(out)), encoding="utf-8")
        ends, cpu, losses, peak = watch([sys.executable, str(ROOT / "llm/run_pretrain.py"), str(config)])
    wall, used = ([after - before for before, after in zip([0.0, *x], x)] for x in (ends, cpu))
    common.print_result("llm/run_pretrain.py", ARGS, wall, used, [], losses, ends[0], peak)


if __name__ == "__main__":
    main()
