"""Runs the batch of a bad step again and says what is wrong with it: loss, gradient norm, first bad tensor.

python llm/tools/replay_step.py OUTPUT_DIR/bad_steps.jsonl [--step N] [--catch_up] [--flag value ...]

A run records its bad steps in bad_steps.jsonl; each record has the command to type. The model is built as the run built
it, from the run_config.json beside the records; further flags of llm/run_pretrain.py come on top, such as another
precision. The same samples are read (their hash is checked) and run on the weights of the newest checkpoint before the
step, or with --catch_up on the very weights that the run had then. Nothing is written.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Optional, Sequence, Tuple

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

import run_pretrain  # noqa: E402

from paddlenlp.parallel.failure import run_as_rank  # noqa: E402
from paddlenlp.trainer import DataArguments, ModelArguments, PdArgumentParser, PreTrainingArguments  # noqa: E402
from paddlenlp.utils.errors import UsageError  # noqa: E402
from paddlenlp.utils.files import parse_json  # noqa: E402

if TYPE_CHECKING:
    from paddlenlp.trainer import Trainer
    from paddlenlp.trainer.replay import Replayed

_HIDDEN = "(not recorded)"


def command_line() -> argparse.ArgumentParser:
    """The tool's own arguments; what it does not know is for the run's."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    made.add_argument("records", type=Path, help="bad_steps.jsonl in the output_dir of a run")
    made.add_argument("--step", type=int, help="which step (default: the last record)")
    made.add_argument("--checkpoint", help='folder to begin from, or "initial" (default: the newest before the step)')
    made.add_argument(
        "--catch_up", action="store_true", help="train from the checkpoint up to the step, instead of jumping to it"
    )
    return made


def main(argv: Optional[Sequence[str]] = None) -> None:
    """One replay, from the command line to the report.

    Raises:
        UsageError: wrong input; the message says what to do.
    """
    from paddlenlp.trainer.bad_steps import read_records
    from paddlenlp.trainer.replay import replay

    own, flags = command_line().parse_known_args(argv)
    record = choose(read_records(own.records), own.step, own.records)
    trainer = build(own.records.parent, flags)
    done = replay(trainer, record, own.checkpoint, own.catch_up)
    if trainer.args.should_log:
        print(report(record, done), flush=True)
    run_pretrain.leave_together()


def choose(records: List[Dict[str, Any]], step: Optional[int], path: Path) -> Dict[str, Any]:
    """The last record of a step; None: the last of all."""
    found = [record for record in records if step in (None, record["step"])]
    if not found:
        steps = ", ".join(sorted({str(record["step"]) for record in records}, key=int))
        raise UsageError(f"{path} has no record of step {step}. It has: {steps}.")
    return found[-1]


def build(output_dir: Path, flags: Sequence[str]) -> Trainer:
    """The trainer of the run that wrote into `output_dir`, with `flags` on top of its arguments."""
    parser, (model_args, data_args, args) = arguments_of_run(output_dir, flags)
    tokenizer = run_pretrain.load_tokenizer(model_args)
    config = run_pretrain.model_config(model_args, data_args, tokenizer, args.mesh.tp)
    data_files = run_pretrain.find_data(data_args, args, tokenizer, config.vocab_size)
    bounds = run_pretrain.document_bounds(data_args, config, tokenizer, data_files[1::2] or data_files)
    run_pretrain.tune_process(args, parser)
    run_pretrain.join_processes(args, data_args)
    model = run_pretrain.build_model(model_args, args, config)
    datasets = run_pretrain.build_datasets(data_args, args, data_files)
    return run_pretrain.build_trainer(model, args, datasets, tokenizer, output_dir / run_pretrain.RECORD, bounds)


def arguments_of_run(output_dir: Path, flags: Sequence[str]) -> Tuple[PdArgumentParser, Tuple[Any, ...]]:
    """What the run was given, and `flags`."""
    path = output_dir / run_pretrain.RECORD
    try:
        recorded = parse_json(path.read_text(encoding="utf-8"))["arguments"]
        given = {name: entry["value"] for name, entry in recorded.items() if entry["origin"] != "default"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: the arguments of the run can't be read ({error!r}).") from None
    told = {name: value for name, value in given.items() if value != _HIDDEN}
    parser = PdArgumentParser((ModelArguments, DataArguments, PreTrainingArguments))
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder, run_pretrain.RECORD)
        config.write_text(json.dumps({**told, "output_dir": str(output_dir), "report_to": ["none"]}, indent=2))
        return parser, parser.parse([str(config), *flags], check_files=False)


def report(record: Dict[str, Any], done: Replayed) -> str:
    """What was recorded, and what is found now."""
    result, number = done.result, record["step"]
    weights = "the weights with which the run began" if done.checkpoint is None else str(done.checkpoint)
    between = number - 1 - done.trained_to
    how = f"{between} steps before it" if between else "all steps before it trained"
    samples = [sample for ids in record["sample_ids"] for sample in ids]
    finding = result.finding
    rows = [
        ("", "recorded", "now"),
        ("loss", _number(record["loss"]), _number(result.loss)),
        ("gradient norm", _number(record["grad_norm"]), _number(result.grad_norm)),
        ("first bad tensor", _tensor(record["first_bad_tensor"]), _tensor(finding and finding.tensor)),
        (
            "bad micro-batches",
            _micro(record["bad_micro_batches"]),
            _micro(finding._asdict()["micro_batches"] if finding else []),
        ),
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    table = "\n".join("  ".join(f"{cell:<{w}}" for cell, w in zip(row, widths)).rstrip() for row in rows)
    return (
        f"Step {number}: {len(samples)} samples, {samples[0]} to {samples[-1]}, from {weights} ({how}).\n"
        f"Recorded: {record['reason']}. Now: {finding.reason if finding else 'nothing is wrong'}.\n{table}"
    )


def _number(value: Any) -> str:
    return f"{float(value):.9g}"


def _tensor(found: Optional[Dict[str, Any]]) -> str:
    return f"{found['kind']} {found['name']} (rank {found['rank']})" if found else "none"


def _micro(found: Sequence[Dict[str, Any]]) -> str:
    return ", ".join(f"{entry['micro_batch']} (rank {entry['rank']})" for entry in found) or "none"


if __name__ == "__main__":
    sys.exit(run_as_rank(main))
