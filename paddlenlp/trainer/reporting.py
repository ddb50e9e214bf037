"""What a run says in words and leaves as small files: start and end blocks, metrics tables, `*_results.json`."""

from __future__ import annotations

import datetime
import logging
from pathlib import Path
from typing import Any, Dict, Optional

from paddlenlp.trainer.state import TrainerState
from paddlenlp.utils.files import atomic_write_json, parse_json
from paddlenlp.utils.log import logger

ALL_RESULTS = "all_results.json"


def quieten(args: Any) -> None:
    """Where this process is not the one that logs what all do alike, keep its log to warnings and errors."""
    if not args.should_log:
        logger.setLevel(max(logger.level, logging.WARNING))


def announce_mesh(args: Any, seq_length: int) -> None:
    """How the processes are shared out, and how large a step is."""
    mesh, size, rounds = args.mesh, args.per_device_train_batch_size, args.gradient_accumulation_steps
    total = args.samples_per_step
    logger.info(
        f"{mesh}; global batch = micro {size} x accumulate {rounds} x data {mesh.data} = {total:,} "
        f"sequences ({total * seq_length:,} tokens)"
    )


def announce_training(args: Any, state: TrainerState, num_examples: int, num_parameters: int) -> None:
    """The block of lines that opens training; the words are those log readers look for."""
    total_batch = args.samples_per_step
    epochs = -(-state.max_steps * total_batch // max(1, num_examples))
    logger.info("***** Running training *****")
    logger.info(f"  Num examples = {num_examples:,}")
    logger.info(f"  Num Epochs = {epochs:,}")
    logger.info(f"  Instantaneous batch size per device = {args.per_device_train_batch_size:,}")
    logger.info(f"  Total train batch size (w. parallel, distributed & accumulation) = {total_batch:,}")
    logger.info(f"  Gradient Accumulation steps = {args.gradient_accumulation_steps:,}")
    logger.info(f"  Total optimization steps = {state.max_steps:,}")
    logger.info(f"  Total num train samples = {state.max_steps * total_batch:,}")
    logger.info(f"  Number of trainable parameters = {num_parameters:,} (per device)")


def announce_resume(folder: Path, state: TrainerState, data_skipped: bool) -> None:
    """The lines that say from where training goes on."""
    logger.info(f"  Continuing training from checkpoint {folder}, will skip to saved global_step")
    logger.info(f"  Continuing training from epoch {int(state.epoch)}")
    logger.info(f"  Continuing training from global step {state.global_step}")
    if data_skipped:
        logger.info(f"  Set DistributedBatchSampler consumed_samples to {state.consumed_samples}")
    else:
        logger.info("  ignore_data_skip is set: the data starts again at sample 0")


def metrics_lines(split: str, metrics: Dict[str, Any]) -> str:
    """A heading and one aligned `name = value` line per metric, sorted by name."""
    shown = {name: _shown(name, value) for name, value in sorted(metrics.items())}
    names = max(map(len, shown), default=0)
    values = max(map(len, shown.values()), default=0)
    lines = [f"  {name:<{names}} = {value:>{values}}" for name, value in shown.items()]
    return "\n".join([f"***** {split} metrics *****", *lines])


def _shown(name: str, value: Any) -> str:
    if name.endswith("_runtime"):
        hundredths = int(value * 100) % 100
        return f"{datetime.timedelta(seconds=int(value))}.{hundredths:02d}"
    return str(round(value, 4)) if isinstance(value, float) else str(value)


def log_metrics(split: str, metrics: Dict[str, Any]) -> None:
    """Log the metrics of a split ("train", "eval", "test"): runtimes as h:mm:ss.cc, other numbers to 4 digits."""
    for line in metrics_lines(split, metrics).splitlines():
        logger.info(line)


def save_metrics(output_dir: str, split: str, metrics: Dict[str, Any], combined: bool = True) -> None:
    """Write `{split}_results.json` and, with `combined`, add the metrics to `all_results.json`."""
    folder = Path(output_dir)
    atomic_write_json(folder / f"{split}_results.json", metrics, indent=4, sort_keys=True)
    if combined:
        together = {**(read_results(folder / ALL_RESULTS) or {}), **metrics}
        atomic_write_json(folder / ALL_RESULTS, together, indent=4, sort_keys=True)


def read_results(path: Path) -> Optional[Dict[str, Any]]:
    """The metrics of a results file; None if it is not there or not readable as one."""
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None
