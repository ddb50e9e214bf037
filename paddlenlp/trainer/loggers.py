"""Where log records go besides the screen: JSON lines, VisualDL, TensorBoard, Weights & Biases.

A sink may fail at any moment (disk full, server away): that is reported once, the sink is dropped, training goes on.
Files of JSON lines are not dropped: what they could not take is kept until they can. Dashboards run in a thread each,
so that none can hold training up.
"""

from __future__ import annotations

import json
import math
import os
import queue
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Protocol, Tuple

from paddlenlp.trainer.callbacks import TrainerCallback
from paddlenlp.trainer.state import TrainerControl, TrainerState
from paddlenlp.utils.files import atomic_write_text
from paddlenlp.utils.log import logger

METRICS_FILE = "metrics.jsonl"


class Sink(Protocol):
    """Takes log records."""

    def write(self, logs: Dict[str, Any], step: int) -> None:
        """Take the record of `step`."""

    def flush(self) -> None:
        """Write what is buffered."""


class JsonLines:
    """One JSON object per record: its entries and `global_step`. NaN and infinity, which JSON lacks, become null.

    What the disk does not take is kept, and written with the next record: no line is lost nor half written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._waiting: List[Tuple[int, str]] = []
        self._cut: Optional[int] = None

    def write(self, logs: Dict[str, Any], step: int) -> None:
        """Append the record."""
        self._waiting.append((step, json_record(logs, step) + "\n"))
        self.flush()

    def cut(self, last_step: int) -> None:
        """See `cut_history`."""
        self._waiting = [(step, line) for step, line in self._waiting if step <= last_step]
        self._cut = last_step
        self.flush()

    def flush(self) -> None:
        """Write what earlier calls could not."""
        if self._cut is not None:
            cut_history(self.path, self._cut)
            self._cut = None
        if self._waiting:
            self._append("".join(line for _, line in self._waiting).encode())
            self._waiting = []

    def _append(self, data: bytes) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "ab", buffering=0) as file:
            end = file.tell()
            try:
                while data:
                    data = data[file.write(data) :]
            except OSError:
                file.truncate(end)
                raise


def json_record(logs: Dict[str, Any], step: int) -> str:
    """The record as strict JSON on one line."""
    finite = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in logs.items()}
    return json.dumps({**finite, "global_step": step}, allow_nan=False)


def cut_history(path: Path, last_step: int) -> None:
    """Take out of the file the records after `last_step` and a torn last line, so that it tells one history."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            if json.loads(line)["global_step"] <= last_step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    atomic_write_text(path, "".join(kept))


def tagged(logs: Dict[str, Any]) -> List[Tuple[str, float]]:
    """The numbers of a record under the names of the dashboards: train/loss, eval/loss, test/loss."""
    pairs = []
    for name, value in logs.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        split = name.split("_", 1)[0]
        tag = f"{split}/{name[len(split) + 1 :]}" if split in ("eval", "test") else f"train/{name}"
        pairs.append((tag, float(value)))
    return pairs


class VisualDL:
    """Scalars for VisualDL."""

    def __init__(self, args: Any) -> None:
        from visualdl import LogWriter

        self.writer = LogWriter(logdir=args.effective_logging_dir)

    def write(self, logs: Dict[str, Any], step: int) -> None:
        """Add every number of the record."""
        for tag, value in tagged(logs):
            self.writer.add_scalar(tag=tag, step=step, value=value)

    def flush(self) -> None:
        """Write what is buffered."""
        self.writer.flush()


class TensorBoard:
    """Scalars for TensorBoard, through tensorboardX or, where that is not installed, PyTorch's writer."""

    def __init__(self, args: Any) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(args.effective_logging_dir)

    def write(self, logs: Dict[str, Any], step: int) -> None:
        """Add every number of the record."""
        for tag, value in tagged(logs):
            self.writer.add_scalar(tag, value, step)

    def flush(self) -> None:
        """Write what is buffered."""
        self.writer.flush()


class WeightsAndBiases:
    """Scalars for Weights & Biases; `WANDB_PROJECT` and the other variables of wandb hold."""

    def __init__(self, args: Any) -> None:
        import wandb

        if args.wandb_http_proxy:
            os.environ["WANDB_HTTP_PROXY"] = args.wandb_http_proxy
        if args.wandb_api_key:
            wandb.login(key=args.wandb_api_key)
        self.run = wandb.init(name=args.effective_run_name, dir=args.output_dir, resume="allow")

    def write(self, logs: Dict[str, Any], step: int) -> None:
        """Send every number of the record."""
        self.run.log({**dict(tagged(logs)), "train/global_step": step})

    def flush(self) -> None:
        """Nothing to do: wandb sends in the background and finishes when the process ends."""


DASHBOARDS: Dict[str, Callable[[Any], Sink]] = {
    "visualdl": VisualDL,
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


class Background:
    """Runs a sink in a thread of its own: one that is slow or hangs never holds up training.

    Raises (from `write` and `flush`): what the sink raised; `queue.Full` or TimeoutError if it does not keep up.
    """

    CAPACITY = 1000
    FLUSH_SECONDS = 10.0

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self.error: Optional[Exception] = None
        self.records: queue.Queue[Tuple[Dict[str, Any], int]] = queue.Queue(self.CAPACITY)
        threading.Thread(target=self._run, daemon=True).start()

    def write(self, logs: Dict[str, Any], step: int) -> None:
        """Leave the record to the thread."""
        self._raise()
        self.records.put_nowait((dict(logs), step))

    def flush(self) -> None:
        """Wait until the thread has written everything."""
        deadline = time.monotonic() + self.FLUSH_SECONDS
        while self.records.unfinished_tasks and self.error is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"it did not take its records within {self.FLUSH_SECONDS:g} s")
            time.sleep(0.002)
        self._raise()

    def _run(self) -> None:
        while self.error is None:
            logs, step = self.records.get()
            try:
                self.sink.write(logs, step)
                self.sink.flush()
            except Exception as error:
                self.error = error
            self.records.task_done()

    def _raise(self) -> None:
        if self.error is not None:
            raise self.error


class SinkCallback(TrainerCallback):
    """Hands each log record to one sink.

    Args:
        name: what the user calls the sink.
        make: makes it from the arguments, at the first need; may fail like everything else about a sink.
    """

    def __init__(self, name: str, make: Callable[[Any], Sink]) -> None:
        self.name = name
        self.make = make
        self.sink: Optional[Sink] = None
        self.dropped = False
        self.training = False

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Make the sink, so that what is wrong with it is said at once."""
        self.training = True
        if state.is_world_process_zero:
            self._guard(lambda: self._made(args))

    def on_log(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write the record."""
        if not state.is_world_process_zero:
            return
        self._guard(lambda: self._made(args).write(kwargs["logs"], state.global_step))
        if not self.training:
            self._flush()

    def on_close(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Write what is buffered."""
        self.training = False
        self._flush()

    def _made(self, args: Any) -> Sink:
        if self.sink is None:
            self.sink = self.make(args)
        return self.sink

    def _flush(self) -> None:
        if self.sink is not None:
            self._guard(self.sink.flush)

    def _guard(self, action: Callable[[], Any]) -> None:
        if self.dropped:
            return
        try:
            action()
        except Exception as error:
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self.sink, self.dropped = None, True
        logger.warning(f"Logging to {self.name} failed and is off from here on; training goes on. Cause: {error!r}")


class LinesCallback(SinkCallback):
    """Hands each log record to a file of JSON lines, which takes later what it cannot take now."""

    error: Optional[OSError] = None

    def _guard(self, action: Callable[[], Any]) -> None:
        before, self.error = self.error, None
        super()._guard(action)
        if self.error is not None and before is None:
            logger.warning(
                f"{self.name} can't be written; training goes on, and its records are kept until it can. {self.error}"
            )
        elif before is not None and self.error is None:
            logger.info(f"{self.name} can be written again and has all records")

    def _fail(self, error: Exception) -> None:
        if isinstance(error, OSError):
            self.error = error
        else:
            super()._fail(error)


class HistoryCallback(LinesCallback):
    """`metrics.jsonl` of the output folder; a run that begins or resumes first takes out what is no longer its past."""

    def __init__(self) -> None:
        super().__init__(METRICS_FILE, lambda args: JsonLines(Path(args.output_dir) / METRICS_FILE))

    def on_train_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Cut the file back to the step training goes on from."""
        super().on_train_begin(args, state, control, **kwargs)
        self._cut(args, state)

    def on_rollback(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Cut the file back to the step of the checkpoint."""
        self._cut(args, state)

    def _cut(self, args: Any, state: TrainerState) -> None:
        if state.is_world_process_zero:
            lines: Any = self._made(args)
            self._guard(lambda: lines.cut(state.global_step))


def default_sinks(args: Any) -> List[SinkCallback]:
    """The sinks that the arguments ask for, `metrics.jsonl` always first."""
    sinks: List[SinkCallback] = [HistoryCallback()]
    if args.metrics_output_path is not None:
        sinks.append(LinesCallback("metrics_output_path", _rank_metrics))
    return sinks + [SinkCallback(name, partial(_dashboard, name)) for name in args.reporters]


def _dashboard(name: str, args: Any) -> Sink:
    return Background(DASHBOARDS[name](args))


def _rank_metrics(args: Any) -> Sink:
    return JsonLines(Path(args.metrics_output_path) / f"metrics_rank{args.process_index}.json")
