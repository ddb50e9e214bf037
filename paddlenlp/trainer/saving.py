"""Saving the checkpoints of a run, while training waits for it or beside the training.

Beside the training a rank copies what it holds to host memory, and a thread does the rest: it exchanges tensors with
the threads of the other ranks over a group of its own, writes, checks and renames. Whatever happens meanwhile, be it
the end of the process, costs at most the checkpoint under way.
"""

from __future__ import annotations

from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import Any, Callable, List, Mapping, NamedTuple, Optional, Sequence

import numpy as np
import paddle

from paddlenlp.checkpoint.folder import step_of
from paddlenlp.checkpoint.shards import Shards
from paddlenlp.checkpoint.writing import save_checkpoint
from paddlenlp.parallel.agree import all_do
from paddlenlp.parallel.catalogue import Part
from paddlenlp.parallel.control import control_group
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.trainer import snapshot


class Job(NamedTuple):
    """A checkpoint to be saved.

    Attributes:
        folder: its name, which ends in the number of the step.
        states, write_extra: see `save_checkpoint`.
        make_ready, follow_up: for rank 0 to do before and after it.
    """

    folder: Path
    states: Mapping[str, Any]
    write_extra: Callable[[Path], None]
    make_ready: Callable[[], None]
    follow_up: Callable[[], None]


class Saver:
    """Saves checkpoints of a model. All ranks of the job call the same methods.

    Attributes:
        under_way: the folder of the checkpoint that is being written beside the training, None if none is.
    """

    def __init__(self, model: Any, args: Any) -> None:
        self._model, self._args = model, args
        self._shards: Optional[Shards] = None
        self._optimizer: Any = None
        self._copies: Optional[_Copies] = None
        self._outcome: Future = Future()
        self._group: Any = None
        self._votes: Any = None
        self.under_way: Optional[Path] = None

    @property
    def beside_training(self) -> bool:
        """Whether checkpoints are written in the background."""
        return bool(self._args.saves_beside_training)

    def prepare(self, optimizer: Any) -> int:
        """Plan who writes what, once for a run; the bytes that a checkpoint takes on the disk, at most.

        For saves beside the training, this also takes the host memory that they need.
        """
        if self._shards is None or self._optimizer is not optimizer:
            if self._group is None:
                self._group, self._votes = control_group("checkpoints"), control_group("checkpoints under way")
            self._optimizer = optimizer
            self._shards = snapshot.shards_to_save(self._model, optimizer, self._args, self._group)
            self._copies = _Copies(self._shards.parts) if self.beside_training else None
        return self._shards.bytes

    def save(self, job: Job) -> None:
        """Write a checkpoint, or begin to if that is done beside the training. `prepare` comes before it.

        Raises:
            UsageError: it cannot be written; on every rank.
        """
        assert self._shards is not None and self.under_way is None
        if self._copies is None:
            self._write(job, None)
            return
        self._outcome = Future()
        work = (self._outcome, job, self._copies.take())
        self.under_way = job.folder
        Thread(target=self._in_background, args=work, name="checkpoint", daemon=True).start()

    def is_over(self) -> bool:
        """Whether a save beside the training has ended on all ranks; False if there is none."""
        if self.under_way is None:
            return False
        if self._votes.size == 1:
            return self._outcome.done()
        vote = paddle.to_tensor([int(self._outcome.done())], "int32", place=paddle.CPUPlace())
        return bool(int(self._votes.all_reduce(vote, "min").wait()))

    def conclude(self) -> Optional[Path]:
        """Wait for the save beside the training; the folder it has written, None if there is none.

        Raises:
            UsageError: it failed; on every rank.
        """
        folder = self.under_way
        if folder is not None:
            try:
                with beat.delegated(lambda: not self._outcome.done()):
                    self._outcome.result()
            finally:
                self.under_way = None
        return folder

    def _in_background(self, outcome: Future, job: Job, parts: Sequence[Part]) -> None:
        try:
            self._write(job, parts)
            outcome.set_result(None)
        except BaseException as error:  # raised again by the thread that trains
            outcome.set_exception(error)

    def _write(self, job: Job, parts: Optional[Sequence[Part]]) -> None:
        shards: Any = self._shards
        self._first_does(job.make_ready)
        save_checkpoint(job.folder.parent, step_of(job.folder), shards, job.states, job.write_extra, parts)
        self._first_does(job.follow_up)

    def _first_does(self, action: Callable[[], None]) -> None:
        all_do(lambda: action() if self._group.rank == 0 else None, self._group)


class _Copies:
    """Memory for copies of what this rank holds, taken once: new memory costs more time than copying into it."""

    def __init__(self, parts: Sequence[Part]) -> None:
        self._parts = list(parts)
        self._room: List[np.ndarray] = [
            np.full((part.stop - part.start) * part.whole.item, 0, np.uint8) for part in self._parts
        ]

    def take(self) -> List[Part]:
        """Copy; the parts that give the copies."""
        found = []
        for part, room in zip(self._parts, self._room):
            values = part.fetch()
            np.copyto(room, np.frombuffer(part.data(values, 0, part.stop - part.start), np.uint8))
            found.append(part._replace(fetch=room.view))
        return found
