"""Tiny runs of `llm/run_pretrain.py` for the fault campaigns: started, watched, killed, and compared at their end.

A run is a LLaMA of about 30,000 parameters with attention dropout on 16 tokens x 4, so that a step takes milliseconds
and everything that a checkpoint holds matters: weights, moments, random states, position in the data.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests/llm"), str(ROOT / "tests/parallel")]

from materials import SHAPE, arguments, write_materials  # noqa: E402

from paddlenlp.checkpoint.folder import checkpoint_folders  # noqa: E402
from paddlenlp.utils.tensor_files import TensorFiles  # noqa: E402

SCRIPT = ROOT / "llm/run_pretrain.py"
LIMIT = 300.0
"""Seconds after which a run that does not end counts as hanging."""

FOUR_RANKS = {"tensor_parallel_degree": 2, "sharding": "stage1", "sharding_parallel_degree": 2}


class Trouble(Exception):
    """A promise was found broken; the text says which."""


class Place:
    """A folder for the runs of one campaign, with the model, tokenizer and data they share.

    Args:
        folder: made if it is not there.
        ranks: processes of each run; more than one are started by Paddle's launcher.
        changes: arguments that differ from the usual ones.
    """

    def __init__(self, folder: Path, ranks: int = 1, **changes: Any) -> None:
        self.folder, self.ranks = folder, ranks
        self.changes = {
            "do_predict": False,
            "do_eval": False,
            "max_steps": 60,
            "save_steps": 5,
            "save_total_limit": 3,
            "report_to": "none",
            **(FOUR_RANKS if ranks == 4 else {}),
            **changes,
        }
        if not (folder / "files/data").exists():
            (folder / "files").mkdir(parents=True, exist_ok=True)
            write_materials(folder / "files")
            shape = {**SHAPE, "attention_dropout": 0.1}
            (folder / "files/model/config.json").write_text(json.dumps(shape))

    def run(self, name: str, program: Sequence[str] = (), **changes: Any) -> Run:
        """Start the run that writes to folder `name`, or start it again: the same command."""
        values = arguments(self.folder / "files", self.out(name), **{**self.changes, **changes})
        config = self.folder / f"{name}.json"
        config.write_text(json.dumps(values, indent=1))
        return Run(self, name, [*(program or [str(SCRIPT)]), str(config)])

    def out(self, name: str) -> Path:
        """Where the run of that name writes."""
        return self.folder / name


class Run:
    """One attempt of a run, under way.

    Attributes:
        process: the process itself, or the launcher.
        started: when, by the monotonic clock.
    """

    def __init__(self, place: Place, name: str, program: List[str]) -> None:
        self.out, self.ranks = place.out(name), place.ranks
        self.logs = place.folder / f"{name}-log"
        command = [sys.executable, *program]
        if self.ranks > 1:
            launcher = ["-m", "paddle.distributed.launch", "--nproc_per_node", str(self.ranks)]
            command = [sys.executable, *launcher, "--log_dir", str(self.logs), *program]
        self.logs.mkdir(exist_ok=True)
        for old in self.logs.glob("workerlog.*"):
            old.unlink()
        env = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE")}
        self.mark = f"{os.getpid()}-{time.monotonic_ns()}"
        env.update(OMP_NUM_THREADS="1", FAULTS_RUN=self.mark)
        self.started = time.monotonic()
        _running.append(self)
        with (self.logs / "out").open("w") as out:
            self.process = subprocess.Popen(
                command, cwd=place.folder, env=env, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.started

    def log(self) -> str:
        """What all its processes have printed."""
        paths = [self.logs / "out", *sorted(self.logs.glob("workerlog.*"))]
        return "\n".join(path.read_text(errors="replace") for path in paths)

    def over(self) -> bool:
        """Whether it has ended."""
        return self.process.poll() is not None

    def end(self, limit: float = LIMIT) -> int:
        """Wait for its exit code.

        Raises:
            Trouble: it does not end.
        """
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Trouble(f"it hangs: no end within {limit:.0f} s\n{self.log()[-3000:]}") from None

    def succeed(self) -> Run:
        """Wait until it is over, and well.

        Raises:
            Trouble: it is not.
        """
        code = self.end()
        if code:
            raise Trouble(f"it ended with code {code}\n{self.log()[-3000:]}")
        return self

    def processes(self) -> Dict[int, int]:
        """Process id -> rank, of its ranks and their children; the launcher is not among them."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                names = dict(item.partition(b"=")[::2] for item in path.read_bytes().split(b"\0"))
                mine = names.get(b"FAULTS_RUN", b"").decode() == self.mark
                if mine and (self.ranks == 1 or b"PADDLE_TRAINER_ID" in names):
                    found[int(path.parent.name)] = int(names.get(b"PADDLE_TRAINER_ID", b"0"))
        return found

    def send(self, number: int, rank: Optional[int] = None) -> None:
        """A signal to one rank, or to all of them."""
        for process, of in ({self.process.pid: 0} if self.ranks == 1 else self.processes()).items():
            if rank in (None, of):
                with suppress(ProcessLookupError):
                    os.kill(process, number)

    def kill(self) -> None:
        """SIGKILL to everything of it at once: process group, ranks, their children."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        for process in self.processes():
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        until(lambda: not self.processes(), "its processes outlast SIGKILL")

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any(self.out.glob(".checkpoint-*.partial-*"))


_running: List[Run] = []


@atexit.register
def _clean_up() -> None:
    """No run outlives the campaign, however it ends."""
    for run in _running:
        if not run.over():
            run.kill()


def until(condition: Callable[[], Any], otherwise: str, limit: float = LIMIT, pause: float = 0.002) -> None:
    """Wait for something to become true.

    Raises:
        Trouble: it does not within `limit` seconds; the text is `otherwise`.
    """
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise Trouble(otherwise)
        time.sleep(pause)


def records(out: Path) -> List[Dict[str, Any]]:
    """The whole lines of metrics.jsonl."""
    found = []
    with suppress(OSError):
        for line in (out / "metrics.jsonl").read_text(errors="replace").splitlines():
            with suppress(ValueError):
                found.append(json.loads(line))
    return [record for record in found if isinstance(record, dict)]


def steps_done(out: Path) -> int:
    """The last step in metrics.jsonl; 0 if there is none."""
    return max((record.get("global_step", 0) for record in records(out)), default=0)


def outcome(out: Path) -> Dict[str, Any]:
    """What two runs that are equal have in common: SHA-256 of every logical tensor of the newest checkpoint and of
    the exported model, loss and gradient norm of each step, position in the data, learning rate and random states."""
    newest = checkpoint_folders(out)[-1]
    state = json.loads((newest / "trainer_state.json").read_text())
    stems = [path.name.split(".")[0] for path in sorted(newest.glob("*.safetensors.index.json"))]
    losses = [(r["global_step"], r["loss"], r.get("grad_norm")) for r in records(out) if "loss" in r]
    if losses != [(r["global_step"], r["loss"], r.get("grad_norm")) for r in state["log_history"] if "loss" in r]:
        raise Trouble("metrics.jsonl and the log in trainer_state.json are not the same")
    return {
        "checkpoint": newest.name,
        "tensors": {stem: hash_of(TensorFiles(newest, stem)) for stem in stems},
        "exported": hash_of(TensorFiles(out, "model")),
        "losses": hashlib.sha256(json.dumps(losses).encode()).hexdigest(),
        "steps": [step for step, *_ in losses],
        "consumed": state["consumed_samples"],
        "scheduler": json.loads((newest / "scheduler.json").read_text()),
        "random": hashlib.sha256((newest / "rng_state.json").read_bytes()).hexdigest(),
    }


def hash_of(tensors: Any) -> str:
    """SHA-256 over names, shapes and bits of what is stored, whatever the files are."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.shape} {array.dtype}".encode() + array.tobytes())
    return digest.hexdigest()


def differences(found: Dict[str, Any], expected: Dict[str, Any]) -> List[str]:
    """The names of what is not equal in two outcomes."""
    return [name for name in expected if found.get(name) != expected[name]]


def debris(out: Path) -> List[str]:
    """What a process has left that ended while it wrote, replaced or removed something in the folder."""
    return sorted(
        path.name for path in out.rglob("*") if ".partial" in path.name or path.name.startswith(".checkpoint")
    )


def heed_sigterm() -> None:
    """Let SIGTERM end a campaign like Ctrl-C does: with its runs."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


def say(text: str) -> None:
    """A progress line."""
    print(text, file=sys.stderr, flush=True)


def draw(seed: int) -> random.Random:
    """A generator for one trial: the same trial is drawn alike again."""
    return random.Random(seed)
