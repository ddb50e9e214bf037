"""`profile_steps`: what some steps spend their time on, as a trace for chrome://tracing or Perfetto and as a table."""

from __future__ import annotations

import json
import os
import re
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Tuple

from paddlenlp.trainer.callbacks import TrainerCallback
from paddlenlp.trainer.state import TrainerControl, TrainerState
from paddlenlp.utils.log import logger

FOLDER = "profile"
ROWS = 20

_KINDS = re.compile(r" (pybind_imperative_func|dygraph|kernel launch|infer_meta|node_creation)$|^(Global|Local)_")
_PREPARES = re.compile(r" (infer_meta|node_creation)\[")
_AROUND = re.compile(r"ProfileStep|Gradient Backward$|backward$")

Event = Dict[str, Any]


@dataclass
class Row:
    """An operation in the table: how often it ran, and for how many microseconds, without what ran inside it."""

    name: str
    calls: int = 0
    time: float = 0.0


class ProfileCallback(TrainerCallback):
    """Profiles the steps `args.profile_steps` = [first, last], counted from 1, both included, on a rank that logs.

    A run that resumes or ends among them profiles those it makes.
    """

    def __init__(self) -> None:
        self.profiler: Any = None
        self.first = 0
        self.opened = ExitStack()

    def on_step_begin(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Start before the first of the steps."""
        first, last = args.profile_steps
        step = state.global_step + 1
        if self.profiler is None and not self.first and first <= step <= last and args.should_log:
            self.first = step
            self._guard(self._start)

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Stop after the last of the steps, and write what was found."""
        if self.profiler is not None and state.global_step >= args.profile_steps[1]:
            self._guard(lambda: self._finish(args, state.global_step))

    def on_close(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The run ends before the last of the steps."""
        if self.profiler is not None:
            self._guard(lambda: self._finish(args, state.global_step))

    def _start(self) -> None:
        from paddle.profiler import Profiler

        from paddlenlp.nn import kernels

        self.opened.enter_context(kernels.wrapped(_recorded))
        self.profiler = Profiler(on_trace_ready=lambda profiler: None)  # the default writes into the present folder
        self.profiler.start()

    def _finish(self, args: Any, last: int) -> None:
        profiler, self.profiler = self.profiler, None
        self.opened.close()
        profiler.stop()
        path = Path(args.output_dir) / FOLDER / f"steps_{self.first}_to_{last}_rank{args.process_index}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f"{path.name}.partial")
        profiler.export(str(partial), format="json")
        rows = top_operations(json.loads(partial.read_text(encoding="utf-8", errors="replace"))["traceEvents"])
        os.replace(partial, path)
        logger.info(f"Profile of steps {self.first} to {last}: {path} (open it in chrome://tracing)\n{table(rows)}")

    def _guard(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:
            self.profiler = None
            self.opened.close()
            logger.warning(f"Profiling failed and is off from here on; training goes on. Cause: {error!r}")


def _recorded(name: str, kernel: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel as an event of its own: Paddle records nothing of the forward pass of a custom operation."""
    from paddle.profiler import RecordEvent

    def run(*args: Any, **kwargs: Any) -> Any:
        with RecordEvent(name):
            return kernel(*args, **kwargs)

    return run


def top_operations(events: Sequence[Event]) -> List[Row]:
    """The operations of a trace, the longest first: those of the device where there are any, else those of the host."""
    whole = [event for event in events if event.get("ph") == "X"]
    device = [event for event in whole if event.get("cat") == "Kernel"]
    rows: Dict[str, Row] = {}
    for name, time, is_call in _device_times(device) if device else _host_times(whole):
        row = rows.setdefault(name, Row(name))
        row.calls += is_call
        row.time += time
    return sorted(rows.values(), key=lambda row: -row.time)


def _device_times(events: Sequence[Event]) -> Iterator[Tuple[str, float, bool]]:
    for event in events:
        yield _plain_name(event), event["dur"], True


def _host_times(events: Sequence[Event]) -> Iterator[Tuple[str, float, bool]]:
    """(operation, time spent in itself, whether it is a call and no layer of one) of each event but those that only
    stand around others."""
    threads: Dict[str, List[Event]] = {}
    for event in events:
        threads.setdefault(str(event["tid"]).partition("(")[0], []).append(event)
    for found in threads.values():
        for event, inside, parent in _nested(found):
            name = _plain_name(event)
            if not _AROUND.match(name):
                outermost = parent is None or _plain_name(parent) != name
                yield name, max(0.0, event["dur"] - inside), outermost and not _PREPARES.search(event["name"])


def _nested(events: List[Event]) -> Iterator[Tuple[Event, float, Optional[Event]]]:
    """(event, time of the events directly inside it, event around it) of a thread."""
    stack: List[List[Any]] = []  # [event, its end, time of its children]
    for event in sorted(events, key=lambda event: (event["ts"], -event["dur"])):
        while stack and event["ts"] >= stack[-1][1]:
            yield _closed(stack)
        if stack:
            stack[-1][2] += event["dur"]
        stack.append([event, event["ts"] + event["dur"], 0.0])
    while stack:
        yield _closed(stack)


def _closed(stack: List[List[Any]]) -> Tuple[Event, float, Optional[Event]]:
    event, _, inside = stack.pop()
    return event, inside, stack[-1][0] if stack else None


def _plain_name(event: Event) -> str:
    """The name without its duration, and without the layer of Paddle that recorded it."""
    return _KINDS.sub("", re.sub(r"\[[^\]]*\]$", "", event["name"]).strip())


def table(rows: Sequence[Row]) -> str:
    """The rows as text: name, calls, total time, share of the time of all operations."""
    total = sum(row.time for row in rows) or 1.0
    lines = [f"{'operation':48s} {'calls':>8s} {'total ms':>10s} {'share':>7s}"]
    for row in rows[:ROWS]:
        lines.append(f"{row.name[:48]:48s} {row.calls:8d} {row.time / 1000:10.2f} {row.time / total:7.1%}")
    rest = rows[ROWS:]
    if rest:
        time = sum(row.time for row in rest)
        lines.append(
            f"{f'{len(rest)} others':48s} {sum(row.calls for row in rest):8d} {time / 1000:10.2f} {time / total:7.1%}"
        )
    return "\n".join(lines)
