"""Index arrays kept on disk between runs, under the reference's names.

The md5 of a description names the files: `{md5}.dsc`, which holds it, and `{md5}_{part}.npy`.

A cache is used only when all its files are there and the arrays pass the check of whoever reads them; else it is built
again. Files are written whole (temporary name, sync, rename), the .dsc last.
"""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import dataclass
from typing import BinaryIO, Callable, Dict, List, Optional, Sequence, Tuple

import numpy as np

from paddlenlp.parallel.heartbeat import beat
from paddlenlp.utils.disk import write_failed
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_path, atomic_write_text, remove_partial_files
from paddlenlp.utils.log import logger

Arrays = Dict[str, np.ndarray]

WAIT_SECONDS = 1800.0
"""How long a process waits for the one that builds."""
_POLL_SECONDS = 1.0
_REPORT_EVERY = 30.0


@dataclass(frozen=True)
class IndexCache:
    """One set of index arrays.

    Attributes:
        desc: the text that says what the arrays are for; its md5 names the files.
        parts: names of the arrays.
        folders: where to look, first hit wins; written to the last.
        problem: given the loaded arrays, why they cannot be used, or None when they can.
    """

    desc: str
    parts: Sequence[str]
    folders: Sequence[str]
    problem: Callable[[Arrays], Optional[str]]

    @property
    def hash(self) -> str:
        """32 hexadecimal digits that the file names start with."""
        return hashlib.md5(self.desc.encode("utf-8")).hexdigest()

    def path(self, folder: str, part: Optional[str] = None) -> str:
        """File of array `part`, or of the description."""
        return os.path.join(folder, f"{self.hash}_{part}.npy" if part else f"{self.hash}.dsc")

    def load_or_build(self, build: Callable[[], Arrays], is_builder: bool = True) -> Arrays:
        """The arrays, memory-mapped. Where no folder holds a good set, the builder makes it and the others wait.

        Raises:
            UsageError: the cache cannot be written, or nobody built it in time.
        """
        found, reasons = self._find()
        if found is None and not is_builder:
            with beat.waiting("reading the index that another one builds", tuple):
                return self._wait()
        for reason in reasons:
            logger.warning(f"{reason}. " + ("It is not used." if found else "It is built again."))
        if found is not None:
            return found
        self._write(build())
        written, problem = self._load(self.folders[-1])
        if written is None:
            raise UsageError(
                f"The index just written cannot be used: {problem}. Check the disk under {self.folders[-1]}."
            )
        return written

    def _find(self) -> Tuple[Optional[Arrays], List[str]]:
        """The arrays of the first folder that has a good set, and why earlier ones were passed over."""
        reasons: List[str] = []
        for folder in dict.fromkeys(self.folders):
            arrays, problem = self._load(folder)
            if arrays is not None:
                return arrays, reasons
            if problem:
                reasons.append(problem)
        return None, reasons

    def _load(self, folder: str) -> Tuple[Optional[Arrays], Optional[str]]:
        """`(arrays, None)`, `(None, why they are bad)` or `(None, None)` where there are none."""
        paths = [self.path(folder)] + [self.path(folder, part) for part in self.parts]
        if not all(os.path.isfile(path) for path in paths):
            return None, None
        label = os.path.join(folder, self.hash)
        try:
            with open(paths[0], encoding="utf-8") as file:
                if file.read() != self.desc:
                    return None, f"Index {label}.dsc does not hold the description its name stands for"
            arrays = {part: np.asarray(np.load(self.path(folder, part), mmap_mode="r")) for part in self.parts}
        except (ValueError, OSError, EOFError) as error:
            return None, f"Index {label} cannot be read ({error})"
        problem = self.problem(arrays)
        return (None, f"Index {label} does not fit: {problem}") if problem else (arrays, None)

    def _write(self, arrays: Arrays) -> None:
        folder = self.folders[-1]
        try:
            os.makedirs(folder, exist_ok=True)
            remove_partial_files(folder)
            for part in self.parts:
                beat.progress()
                with atomic_path(self.path(folder, part)) as partial, open(partial, "wb") as file:
                    np.lib.format.write_array(_Checked(file), arrays[part], allow_pickle=False)
            atomic_write_text(self.path(folder), self.desc)
        except OSError as error:
            needed = sum(array.nbytes for array in arrays.values())
            failure = write_failed(folder, error, needed, "the index of the samples")
            raise UsageError(f"{failure} Or set --data_cache to a folder that can be written to.") from None

    def _wait(self) -> Arrays:
        """Poll until another process has written a good set."""
        began = reported = time.monotonic()
        awaited = " or ".join(self.path(folder) for folder in dict.fromkeys(self.folders))
        logger.info(f"building indices on rank 0 ... waiting for {awaited}")
        while True:
            found, reasons = self._find()
            if found is not None:
                logger.info("build success")
                return found
            now = time.monotonic()
            if now - began > WAIT_SECONDS:
                raise UsageError(
                    f"Waited {now - began:.0f} s in vain for {awaited}, which another process should have written"
                    + (f" ({'; '.join(reasons)})" if reasons else "")
                    + ". Look at the log of the first rank; with --share_folder true all machines must see the same "
                    "folder, with false each machine's first rank builds its own."
                )
            if now - reported > _REPORT_EVERY:
                logger.info(f"still waiting for {awaited} ({now - began:.0f} s)")
                reported = now
            time.sleep(_POLL_SECONDS)


class _Checked:
    """A file to which NumPy writes through Python: its own way for files does not notice that the disk is full."""

    def __init__(self, file: BinaryIO) -> None:
        self.write = file.write


def is_index_builder(share_folder: bool) -> bool:
    """Whether this process builds: the first of its machine, or with a shared folder only the first of all."""
    return os.environ.get("PADDLE_TRAINER_ID" if share_folder else "PADDLE_RANK_IN_NODE", "0") == "0"
