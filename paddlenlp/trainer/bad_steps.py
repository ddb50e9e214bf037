"""What a run does about a step with bad numbers: stop, pass it over, or go back to a checkpoint and then pass it over.

Every bad step is a line of `bad_steps.jsonl` in `output_dir`; the log says so too. Everything here is decided from what
all ranks know alike.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Sequence

from paddlenlp.trainer import rollback
from paddlenlp.trainer.bad_tensors import Finding
from paddlenlp.trainer.step import StepResult, check_loss
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import parse_json
from paddlenlp.utils.log import logger

if TYPE_CHECKING:
    from paddlenlp.trainer.trainer import Trainer

RECORDS = "bad_steps.jsonl"
WINDOW = 20
"""Good steps whose mean loss a spike is measured by."""


class BadStepError(UsageError):
    """A bad step ends the run; it changed no weight."""


class BadSteps:
    """Judges the steps of `trainer` and deals with the bad ones as its arguments say; all ranks call the same."""

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.args = trainer.args

    def judge(self, loss: float) -> str:
        """What is wrong with the loss of the next step; "" if nothing."""
        bound, recent = self.args.loss_spike_bound, self.trainer.state.recent_losses
        problem = check_loss(loss)
        if problem or bound is None or len(recent) < WINDOW:
            return problem
        mean = sum(recent) / len(recent)
        if loss <= bound * mean:
            return ""
        return f"loss {loss:g} is above loss_spike_bound {bound:g} times the mean of {WINDOW} good steps, {mean:g}"

    def count_good(self, result: StepResult) -> None:
        """A step with this result is done, and `state.global_step` counts it."""
        state = self.trainer.state
        if not result.applied:  # float16, and the loss scaler has dealt with it
            return
        state.recent_losses = [*state.recent_losses, result.loss][-WINDOW:]
        if state.global_step > state.last_bad_step:
            state.bad_steps_in_a_row = 0

    def passes_over(self) -> bool:
        """Whether the data of the step that is next has spoilt a step before the run went back."""
        batches = self.trainer.batches
        start, stop = batches.start, batches.consumed_samples
        return any(first < stop and start < last for first, last in self.trainer.state.passed_over)

    def deal_with(self, result: StepResult, micro_batches: List[Any]) -> bool:
        """Record a bad step and do what the policy says.

        Returns:
            Whether the run went back to a checkpoint; else the step is to be counted as one that was passed over.

        Raises:
            BadStepError: the run ends here, on all ranks.
        """
        state, policy = self.trainer.state, self.args.bad_step_policy
        number = state.global_step + 1
        state.bad_steps_in_a_row += 1
        state.last_bad_step = max(state.last_bad_step, number)
        goal = rollback.goal(self.trainer) if policy == "rollback" else None
        gives_up = policy == "stop" or state.bad_steps_in_a_row >= self.args.bad_step_limit
        action = "stop" if gives_up else "skip" if goal is None else "rollback"
        record = self._record(number, result, micro_batches, action)
        if self.args.process_index == 0:
            append_record(Path(self.args.output_dir) / RECORDS, record)
        if gives_up:
            raise BadStepError(self._farewell(record))
        self._announce(record, goal)
        if goal is None:
            return False
        rollback.go_back(self.trainer, goal)
        return True

    def _record(self, number: int, result: StepResult, micro_batches: List[Any], action: str) -> Dict[str, Any]:
        finding, trainer = result.finding, self.trainer
        assert finding is not None
        samples = trainer.batches.sample_ids(micro_batches)
        last = trainer.keeper.last
        return {
            "step": number,
            "reason": finding.reason,
            "action": action,
            "loss": in_json(finding.loss),
            "grad_norm": in_json(result.grad_norm),
            "learning_rate": trainer.optimizer.lr,
            "first_bad_tensor": finding.tensor,
            "bad_micro_batches": _with_samples(finding, samples, self.args.dataset_world_size),
            "sample_ids": samples,
            "samples_sha256": finding.samples,
            "consumed_samples": trainer.batches.start,
            "checkpoint": None if last is None else str(last),
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "command": replay_command(Path(self.args.output_dir) / RECORDS, number, self.args),
        }

    def _announce(self, record: Dict[str, Any], goal: Any) -> None:
        if goal is not None:
            then = f"going back to {goal}, to pass this data over on the way"
        elif self.args.bad_step_policy == "rollback":
            then = "its data is passed over: there is no checkpoint to go back to yet"
        else:
            then = "its data is passed over"
        logger.warning(
            f"Step {record['step']} is bad, {self.trainer.state.bad_steps_in_a_row} in a row: {_told(record)}. No "
            f"weight was changed; {then}. Details: {Path(self.args.output_dir) / RECORDS}"
        )

    def _farewell(self, record: Dict[str, Any]) -> str:
        """Why the run ends, and what to do."""
        number, count = record["step"], self.trainer.state.bad_steps_in_a_row
        if self.args.bad_step_policy == "stop":
            limit = ""
        else:
            limit = f" It is bad step {count} in a row, as many as bad_step_limit allows."
        if (record["first_bad_tensor"] or {}).get("kind") == "weight":
            advice = "The weights themselves are spoilt: the same command goes on from the last checkpoint."
        else:
            advice = (
                "Lower learning_rate, set max_grad_norm lower (0 clips nothing) or lengthen the warm-up; if only this "
                f"data does it, run again with --skip_data_intervals '[[{number}, {number}]]' or --bad_step_policy "
                "skip to pass it over."
            )
        return (
            f"Step {number}: {_told(record)}. This step changed no weight.{limit} {advice} The samples and what was "
            f"found are in {Path(self.args.output_dir) / RECORDS}; to run this batch again: {record['command']}"
        )


def _told(record: Dict[str, Any]) -> str:
    found = record["first_bad_tensor"]
    if found is None:
        return record["reason"]
    others = f"{found['bad']} of {found['tensors']}"
    return f"{record['reason']}; first bad {found['kind']}: {found['name']} on rank {found['rank']} ({others} there)"


def _with_samples(finding: Finding, samples: Sequence[Sequence[int]], ranks: int) -> List[Dict[str, Any]]:
    """The bad micro-batches with the ids of what the rank read, its share of the global micro-batch."""
    found = []
    for bad in finding.micro_batches:
        ids = samples[bad["micro_batch"]]
        size, place = len(ids) // ranks, bad["data_rank"]
        entry = {"micro_batch": bad["micro_batch"], "rank": bad["rank"]}
        found.append({**entry, "sample_ids": list(ids[place * size : (place + 1) * size])})
    return found


def in_json(number: float) -> Any:
    """JSON has no "nan" and "inf" but as text; `float` reads both back."""
    return number if abs(number) < float("inf") else str(number)


def replay_command(records: Path, number: int, args: Any) -> str:
    """What to type, where the run was started, to run the batch of a bad step again."""
    script = Path(sys.argv[0])
    tools = script.parent / "tools" if script.name == "run_pretrain.py" else Path("llm/tools")
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(args.local_world_size)]
    words = ["python", *(launch if args.world_size > 1 else []), str(tools / "replay_step.py")]
    return shlex.join([*words, str(records), "--step", str(number)])


def append_record(path: Path, record: Dict[str, Any]) -> None:
    """Append a line of JSON, durably. A failure is logged and does no more: the run has its own way to go."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            line = json.dumps(record, allow_nan=False).encode() + b"\n"
            file.write(line if _ends_whole(path) else b"\n" + line)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        logger.warning(f"{path}: the record of a bad step can't be written ({error}): {json.dumps(record)}")


def _ends_whole(path: Path) -> bool:
    """Whether the file is empty or its last line has an end: a process that was killed may have left half of one."""
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 1))
        return file.read(1) in (b"", b"\n")


def read_records(path: Path) -> List[Dict[str, Any]]:
    """The records of a file, in order; torn lines are left out.

    Raises:
        UsageError: it can't be read, or holds no record.
    """
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UsageError(f"{path}: the records of bad steps can't be read: {error.strerror}.") from None
    found = []
    for line in lines:
        try:
            record = parse_json(line)
        except ValueError:
            continue
        if isinstance(record, dict) and {"step", "sample_ids", "samples_sha256"} <= set(record):
            found.append(record)
    if not found:
        raise UsageError(f"{path} holds no record of a bad step. Give the {RECORDS} of a run's output_dir.")
    return found
