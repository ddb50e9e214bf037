"""Writing a checkpoint: whole and durable, or not at all; by all ranks of a job together."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from pathlib import Path
from typing import Any, Callable, Mapping, Optional, Sequence, Union

from paddlenlp.checkpoint.folder import hidden, restore_replaced, set_aside, settle
from paddlenlp.checkpoint.manifest import verify, write_manifest
from paddlenlp.checkpoint.shards import Shards, Written, check_written
from paddlenlp.checkpoint.space import TensorGroups, check_free_space
from paddlenlp.parallel.agree import all_do
from paddlenlp.parallel.catalogue import Part
from paddlenlp.parallel.objects import at_first, from_first
from paddlenlp.utils.disk import room
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import PathLike, atomic_write_json, fsync_folder

Extra = Callable[[Path], None]


def save_checkpoint(
    output_dir: PathLike,
    step: int,
    tensors: Union[Shards, TensorGroups],
    states: Mapping[str, Any],
    write_extra: Optional[Extra] = None,
    parts: Optional[Sequence[Part]] = None,
) -> Path:
    """Write `checkpoint-{step}` in `output_dir`, whole and durable or not at all; an existing one is replaced.

    All ranks of the job that made `tensors` call this together, each writes its files; rank 0 writes the rest. Every
    rank reads back what it wrote before the checkpoint gets its name.

    Args:
        tensors: the shards of a job; or of one process stem ("model", "optimizer", "master_weights") -> name -> Paddle
            tensor, array or LazyTensor. A stem without tensors is left out.
        states: file name -> value, written as JSON by rank 0.
        write_extra: called on rank 0 with the folder being written, to add further files (configuration, tokenizer).
        parts: of this rank, in place of the live ones of `tensors`.

    Returns:
        The folder of the checkpoint.

    Raises:
        UsageError: too little space or a failed write, on any rank; with the rank, the path, the bytes needed and those
            free; on all ranks. What was in `output_dir` before is as it was.
    """
    shards = tensors if isinstance(tensors, Shards) else Shards.of(tensors)
    return _Attempt(Path(output_dir) / f"checkpoint-{step}", step, shards).run(states, write_extra, parts)


class _Attempt:
    """One checkpoint on its way to the disk, as one rank sees it."""

    def __init__(self, final: Path, step: int, shards: Shards) -> None:
        self.final, self.step, self.shards = final, step, shards
        self.group = shards.group
        self.is_first = self.group.rank == 0
        # The name holds the process by which leavings are known: all write where rank 0 says.
        self.partial = final.with_name(from_first(hidden(final, "partial").name, self.group))

    def run(self, states: Mapping[str, Any], write_extra: Optional[Extra], parts: Optional[Sequence[Part]]) -> Path:
        try:
            self._first_does(self._prepare)
            written = self.shards.write(self.partial, parts)
            self._all_do(lambda: self._settle(written))
            files = at_first(written.files, self.group) or []
            known = {name: str(digest) for of_rank in files for name, _, digest in of_rank}
            self._first_does(lambda: self._complete(known, states, write_extra))
        finally:
            if self.is_first:
                shutil.rmtree(self.partial, ignore_errors=True)
        return self.final

    def _prepare(self) -> None:
        folder = self.final.parent
        folder.mkdir(parents=True, exist_ok=True)
        settle(folder)
        check_free_space(folder, self.shards.bytes)
        self.partial.mkdir()

    def _settle(self, written: Written) -> None:
        """See that this rank's files are as they should be."""
        if written.error is not None:
            raise written.error
        check_written(self.partial, written.files)

    def _complete(self, known: Mapping[str, str], states: Mapping[str, Any], write_extra: Optional[Extra]) -> None:
        self.shards.write_indexes(self.partial)
        for name, value in states.items():
            atomic_write_json(self.partial / name, value, sort_keys=True)
        if write_extra:
            write_extra(self.partial)
        for name in known:
            os.stat(self.partial / name)  # of other machines: they must be in the manifest
        write_manifest(self.partial, self.step, known)
        _put_in_place(self.partial, self.final)

    def _first_does(self, action: Callable[[], None]) -> None:
        self._all_do(lambda: action() if self.is_first else None)

    def _all_do(self, action: Callable[[], None]) -> None:
        """`all_do`; if it fails, nothing is left of the attempt before any rank goes on."""
        try:
            all_do(lambda: self._explained(action), self.group)
        except Exception:
            if self.is_first:
                shutil.rmtree(self.partial, ignore_errors=True)
            with contextlib.suppress(UsageError):  # a rank that has ended
                self.group.barrier()
            raise

    def _explained(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            rank = f"rank {self.group.rank} on host {socket.gethostname()} " if self.group.size > 1 else ""
            raise UsageError(
                f"{self.final}: {rank}cannot write the checkpoint: {error}. It needs {self.shards.bytes:,} bytes, "
                f"{room(self.final)}. Earlier checkpoints are untouched."
            ) from error


def _put_in_place(partial: Path, final: Path) -> None:
    """Rename; an older folder of that name steps aside first and is removed last, so that one of both always exists."""
    replaced = hidden(final, "replaced")
    problems = verify(final) if final.exists() else []
    if problems:  # it may be all that is left of something
        set_aside(final, problems)
    if final.exists():
        os.rename(final, replaced)
    try:
        os.rename(partial, final)
    except OSError:
        restore_replaced(final.parent)
        raise
    fsync_folder(final.parent)
    shutil.rmtree(replaced, ignore_errors=True)
