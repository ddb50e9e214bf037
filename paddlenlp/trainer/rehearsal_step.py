"""One step of a tiny model of the same kind, with a process on this machine's CPU for each role of the layout.

A rank's role is where it stands on each axis: first, last or between in the pipeline, first or not on the others. So
two ranks of an axis stand for all of it, and three of the pipeline where there is room. Processes, exchanges, data and
the step itself are those of a run; only widths, depths and the data are small.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Dict, List

import numpy as np

from paddlenlp.doctor.finding import OK, Finding
from paddlenlp.parallel.mesh import Mesh
from paddlenlp.trainer.shrink import shrunk
from paddlenlp.utils.errors import UsageError

MOST = 8
"""Processes, where two of each axis allow it."""

SEQ_LENGTH = 64
SECONDS = 600
_DOCUMENTS = 64


def roles(mesh: Mesh) -> Mesh:
    """The smallest mesh in which every role of `mesh` occurs; of the replicas of data one, where two are too many."""
    axes = ("dp", "pp", "sharding", "sep", "cp", "tp", "ep")
    small = replace(mesh, **{axis: min(2, getattr(mesh, axis)) for axis in axes})
    if small.world > MOST and mesh.dp > 1 and small.expert_axis != "dp":
        small = replace(small, dp=1)
    return replace(small, pp=3) if mesh.pp > 2 and small.world // 2 * 3 <= MOST else small


def one_step(run: Any, script: Path) -> Finding:
    """Train it.

    Args:
        run: a `rehearsal.Run`.
        script: of run_pretrain.py.

    Raises:
        UsageError: a process failed; with what it said.
    """
    start, mesh = time.perf_counter(), roles(run.args.mesh)
    with tempfile.TemporaryDirectory(prefix="dry-run-") as name:
        folder = Path(name)
        arguments = _arguments(run, mesh, folder)
        (folder / "step.json").write_text(json.dumps(arguments))
        _write_model(run, mesh, folder)
        _write_data(run, folder)
        loss = _carry_out(folder, mesh.world, script)
    text = (
        f"a tiny {run.config.model_type} over {mesh} on this CPU: loss {loss:.4f}, {time.perf_counter() - start:.0f} s"
    )
    return Finding("tiny step", OK, text)


def _arguments(run: Any, mesh: Mesh, folder: Path) -> Dict[str, Any]:
    """What the user gave, but for what makes the run small."""
    given = {
        item.name: _plain(getattr(made, item.name))
        for made in (run.model_args, run.data_args, run.args)
        for item in fields(made)
        if run.origins.get(item.name, "default") != "default" and not item.metadata.get("secret")
    }
    given = {name: "auto" if value == "require" else value for name, value in given.items()}
    return {**given, **_small(run, mesh), **_places(run, folder)}


def _small(run: Any, mesh: Mesh) -> Dict[str, Any]:
    args = run.args
    rounds = mesh.pp * 2 if args.gradient_accumulation_steps > 1 else 1
    layers = _layers(args, mesh)
    return {
        "tensor_parallel_degree": mesh.tp,
        "pipeline_parallel_degree": mesh.pp,
        "sep_parallel_degree": mesh.sep,
        "context_parallel_degree": mesh.cp,
        "sharding_parallel_degree": mesh.sharding if args.sharding else -1,
        "sharding_degree": -1,
        "expert_parallel_degree": -1 if args.use_expert_parallel else mesh.ep,
        "virtual_pp_degree": min(2, args.pipeline_chunks),
        "num_hidden_layers": layers,
        "no_recompute_layers": [layer for layer in args.no_recompute_layers or () if layer < layers] or None,
        "per_device_train_batch_size": min(2, args.per_device_train_batch_size),
        "gradient_accumulation_steps": rounds,
        "max_seq_length": SEQ_LENGTH,
        **{"max_steps": 1, "logging_steps": 1, "decay_steps": None, "warmup_steps": 0, "skip_data_intervals": None},
    }


def _places(run: Any, folder: Path) -> Dict[str, Any]:
    """Where it reads and writes, and what it leaves out."""
    return {
        "model_name_or_path": str(folder / "model"),
        "tokenizer_name_or_path": str(Path(run.model_args.tokenizer_source).absolute())
        if Path(run.model_args.tokenizer_source).is_dir()
        else run.model_args.tokenizer_source,
        "config_name": None,
        "input_dir": str(folder / "data"),
        "data_cache": None,
        "output_dir": str(folder / "out"),
        "logging_dir": None,
        "metrics_output_path": None,
        "resume_from_checkpoint": None,
        "split": "100,0,0",
        **{"device": "cpu", "report_to": ["none"], "disable_tqdm": True, "sample_prompt": None},
        **{"do_train": True, "do_eval": False, "do_predict": False, "evaluation_strategy": "no"},
        **{
            "load_best_model_at_end": False,
            "save_strategy": "no",
            "bad_step_policy": "stop",
            "minimum_eval_times": None,
        },
        **dict.fromkeys(("dry_run", "dry_run_step", "auto_micro_batch", "autotuner_benchmark"), False),
        **dict.fromkeys(("dry_run_processes", "plan_gpu", "profile_steps"), None),
        "continue_training": False,
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else value


def _layers(args: Any, mesh: Mesh) -> int:
    return max(2, mesh.pp * (min(2, args.pipeline_chunks) if mesh.pp > 1 else 1))


def _write_model(run: Any, mesh: Mesh, folder: Path) -> None:
    values = shrunk(run.config.to_dict(), _layers(run.args, mesh))
    (folder / "model").mkdir()
    (folder / "model/config.json").write_text(json.dumps(values))


def _write_data(run: Any, folder: Path) -> None:
    """Documents of random tokens, which end as those of the run do if it tells them apart."""
    from paddlenlp.data import MMapIndexedDatasetBuilder

    random, tokens, end = np.random.default_rng(0), len(run.tokenizer), run.tokenizer.eos_token_id
    (folder / "data").mkdir()
    with MMapIndexedDatasetBuilder(str(folder / "data/random"), np.int32) as builder:
        for _ in range(_DOCUMENTS):
            ids = random.integers(0, tokens, random.integers(50, 150))
            builder.add_item(np.append(ids, [] if end is None else [end]).astype(np.int32))
            builder.end_document()
        builder.finalize()


def _carry_out(folder: Path, processes: int, script: Path) -> float:
    """The loss of the step."""
    launcher = ["-m", "paddle.distributed.launch", "--log_dir", "log", "--nproc_per_node", str(processes)]
    command = [sys.executable, *(launcher if processes > 1 else []), str(script.absolute()), "step.json"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PADDLE", "CUDA_VISIBLE"))}
    environment = {**kept, "OMP_NUM_THREADS": "1", "PADDLENLP_JOB_KEY": secrets.token_hex(16)}
    pipes: Any = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        done = subprocess.run(command, cwd=folder, env=environment, timeout=SECONDS, check=False, **pipes)
    except subprocess.TimeoutExpired:
        raise UsageError(f"The tiny step did not end within {SECONDS} s.") from None
    if done.returncode:
        logs = [path.read_text(errors="replace") for path in sorted((folder / "log").glob("workerlog.*"))]
        raise UsageError(f"The tiny step failed:\n{_what_failed([*logs, done.stdout])}")
    lines = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
    loss = next(float(line["loss"]) for line in lines if "loss" in line)
    if not math.isfinite(loss):
        raise UsageError(f"The tiny step failed: its loss is {loss}.")
    return loss


def _what_failed(logs: List[str]) -> str:
    """The first message that isn't about another rank, else the end of the output."""
    for log in logs:
        found = re.search(r"^(?:\[rank [^\]]*\] )?error: (?!rank |as rank )(.*)", log, re.S | re.M)
        if found:
            return found[1].strip()[:2000]
    return logs[-1][-2000:]
