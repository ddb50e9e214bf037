"""Index arrays kept on disk between runs, under the reference's names.

The md5 of a description names the files: `{md5}.dsc`, which holds it, and `{md5}_{part}.npy`; ours beside them are
described in `index_record.py`. Arrays are used only when they were made for the data and settings at hand, and are what
was written: each start looks at lengths and a sample of blocks, and files that have not been read whole since they were
last written or copied are read once. Arrays without a record, the reference's, are compared with the data, value by
value.

Whoever builds or checks holds a lock. The others wait; they take over from a builder that has died, or that does not
begin.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from paddlenlp.data.build_lock import BuildLock, LockFile
from paddlenlp.data.index_record import Checked, altered, damaged, outdated, read_record, record_of, save_npy
from paddlenlp.data.mapped import map_npy
from paddlenlp.data.streamed_array import StreamedArray
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.utils.disk import write_failed
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_write_json, fsync_file, fsync_folder, remove_partial_files
from paddlenlp.utils.log import logger
from paddlenlp.utils.processes import process_name

Arrays = Dict[str, np.ndarray]
Built = Mapping[str, Union[np.ndarray, StreamedArray]]
"""Arrays to be written; those that are streamed are made while they are."""

WAIT_SECONDS = 1800.0
"""How long a process waits for the one that builds."""
PATIENCE = 8.0
"""Seconds that the builder has to begin; after that another process does it."""
_POLL_SECONDS = 0.5
_FIRST_POLL_SECONDS = 0.02
_REPORT_EVERY = 30.0
_NOT_WRITABLE = (errno.EROFS, errno.EACCES, errno.EPERM)


@dataclass
class _Found:
    """The files of one folder.

    Attributes:
        folder: where they lie.
        arrays: memory-mapped, if they can be used as far as is known.
        problem: why they can't be used.
        record: theirs; None for arrays of the reference.
        unread: parts that have not been read whole since they came here.
    """

    folder: str
    arrays: Optional[Arrays] = None
    problem: Optional[str] = None
    record: Optional[Dict[str, Any]] = None
    unread: List[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether they can be used with no more ado."""
        return self.arrays is not None and self.record is not None and not self.unread


@dataclass(frozen=True)
class IndexCache:
    """One set of index arrays.

    Attributes:
        desc: the text that says what the arrays are for; its md5 names the files.
        parts: names of the arrays.
        folders: where to look, first hit wins; written to the last.
        problem: given the arrays, why they cannot be used, or None when they can.
        facts: what of data and settings decides about the arrays, by name: what JSON can hold.
        sources: files whose SHA-256 does so too, by name.
        spare: folder to use where the last of `folders` can't be written to.
    """

    desc: str
    parts: Sequence[str]
    folders: Sequence[str]
    problem: Callable[[Arrays], Optional[str]]
    facts: Mapping[str, Any] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    spare: Optional[str] = None

    @property
    def hash(self) -> str:
        """32 hexadecimal digits that the file names start with."""
        return hashlib.md5(self.desc.encode("utf-8")).hexdigest()

    def path(self, folder: str, part: Optional[str] = None) -> str:
        """File of array `part`, or of the description."""
        return os.path.join(folder, f"{self.hash}_{part}.npy" if part else f"{self.hash}.dsc")

    def _beside(self, folder: str, kind: str) -> str:
        return os.path.join(folder, f"{self.hash}.{kind}")

    @property
    def _targets(self) -> List[str]:
        """Where to write: the first that can be written to."""
        return list(dict.fromkeys([self.folders[-1], *([self.spare] if self.spare else [])]))

    @property
    def _places(self) -> List[str]:
        return list(dict.fromkeys([*self.folders, *self._targets]))

    def load_or_build(self, build: Callable[[], Built], is_builder: bool = True) -> Arrays:
        """The arrays, memory-mapped. Where no folder holds a good set, the builder makes it and the others wait.

        Raises:
            UsageError: the cache cannot be written, or nobody built it in time.
        """
        began, takes_over = time.monotonic(), is_builder
        locks = {folder: LockFile(self._beside(folder, "lock")) for folder in self._targets}
        arrays = self._good(passing_over=not is_builder)
        while arrays is None:
            arrays = self._make(build, locks) if takes_over else None
            if arrays is None:
                with beat.waiting("reading the index that another one builds", tuple):
                    arrays = self._wait(locks, is_builder, began)
                takes_over = True
        return arrays

    def _good(self, passing_over: bool) -> Optional[Arrays]:
        """The arrays of the first folder whose set is good; one before that cannot be used may be passed over."""
        for found in self._look():
            if found.good:
                return found.arrays
            if found.arrays is not None or not passing_over:
                return None
        return None

    def _look(self) -> List[_Found]:
        """What there is in each folder that has something."""
        return [found for found in map(self._load, self._places) if found is not None]

    def _load(self, folder: str) -> Optional[_Found]:
        paths = {part: self.path(folder, part) for part in self.parts}
        missing = [path for path in (self.path(folder), *paths.values()) if not os.path.isfile(path)]
        if len(missing) > len(self.parts):
            return None
        found = _Found(folder)
        label = os.path.join(folder, self.hash)
        try:
            found.problem = f"Index {label} is not complete: {missing[0]} is missing" if missing else None
            if not missing and Path(self.path(folder)).read_bytes() != self.desc.encode():
                found.problem = f"Index {label}.dsc does not hold the description its name stands for"
            if found.problem is None:
                self._compare(found, label, paths)
            if found.problem is None:
                found.arrays = {part: map_npy(path) for part, path in paths.items()}
        except (ValueError, OSError, EOFError) as error:
            found.problem = f"Index {label} cannot be read ({error})"
        return found

    def _compare(self, found: _Found, label: str, paths: Mapping[str, str]) -> None:
        """Hold the files against their record, where they have one."""
        records = (read_record(self._beside(folder, "json")) for folder in (found.folder, *self._places))
        found.record = next((record for record in records if record), None)
        if found.record is None:
            return
        checked = self._checked(found.folder)
        changed = outdated(found.record, self._fingerprint(checked))
        if changed:
            found.problem = f"Index {label} was made for other data or settings: {changed}"
            return
        for part, path in paths.items():
            wrong = damaged(found.record, part, path)
            if wrong:
                found.problem = f"Index {label} is damaged: {wrong}"
                return
            if checked.noted(part, path) != found.record["files"][part]["sha256"]:
                found.unread.append(part)

    def _checked(self, folder: str) -> Checked:
        return Checked([self._beside(place, "checked") for place in dict.fromkeys([folder, *self._places])])

    def _fingerprint(self, checked: Checked) -> Dict[str, Any]:
        return {**self.facts, **{name: checked.sha256(name, path) for name, path in self.sources.items()}}

    def _make(self, build: Callable[[], Built], locks: Mapping[str, LockFile]) -> Optional[Arrays]:
        """Check or build the arrays; None if another process is about to do so."""
        try:
            lock, folder = self._take(locks)
        except UsageError:
            arrays, _ = self._checked_in(None)  # what is good can be used all the same: it is read at every start
            if arrays is None:
                raise
            return arrays
        if lock is None:
            return None
        with lock:
            arrays, reasons = self._checked_in(folder)
            for reason in reasons:
                logger.warning(f"{reason}. " + ("It is not used." if arrays else "It is built again."))
            return arrays or self._build(build, lock, folder)

    def _take(self, locks: Mapping[str, LockFile]) -> Tuple[Optional[BuildLock], str]:
        """The lock and the folder to write to; no lock if another process has it.

        Raises:
            UsageError: no folder can be written to.
        """
        failure: Optional[UsageError] = None
        for folder, lock_file in locks.items():
            try:
                os.makedirs(folder, exist_ok=True)
                lock = lock_file.take()
            except OSError as error:
                failure = failure or self._failed(folder, error, None)
                if error.errno not in _NOT_WRITABLE:
                    break
                if folder != self._targets[-1]:
                    logger.info(f"{folder} cannot be written to ({error.strerror}): the index goes to {self.spare}.")
                continue
            return lock, folder
        assert failure is not None
        raise failure

    def _failed(self, folder: str, error: OSError, needed: Optional[int]) -> UsageError:
        failure = write_failed(folder, error, needed, "the index of the samples")
        return UsageError(f"{failure} Or set --data_cache to a folder that can be written to.")

    def _checked_in(self, notes: Optional[str]) -> Tuple[Optional[Arrays], List[str]]:
        """The arrays of the first folder that has a good set, once they have been read whole, and why earlier ones are
        not. That is noted in folder `notes`."""
        reasons: List[str] = []
        for found in self._look():
            self._read(found, notes)
            if found.problem is None:
                return found.arrays, reasons
            reasons.append(found.problem)
        return None, reasons

    def _read(self, found: _Found, notes: Optional[str]) -> None:
        """Read the arrays whole unless that is known to have been done."""
        if found.arrays is None or found.good:
            return
        label, checked = os.path.join(found.folder, self.hash), self._checked(found.folder)
        paths = {part: self.path(found.folder, part) for part in self.parts}
        if found.record is None:
            wrong = self.problem(found.arrays)
            if wrong:
                found.problem = f"Index {label} has no record and does not fit: {wrong}"
                return
        hashes = {part: checked.sha256(part, path) for part, path in paths.items()}
        for part in found.unread:
            if found.record is not None and hashes[part] != found.record["files"][part]["sha256"]:
                found.problem = f"Index {label} is damaged: {altered(part, paths[part])}"
                return
        if notes is not None:
            with contextlib.suppress(OSError):  # then they are read again at the next start
                if found.record is None:
                    record = record_of(self._fingerprint(checked), paths, hashes)
                    atomic_write_json(self._beside(notes, "json"), record)
                checked.write(self._beside(notes, "checked"))

    def _build(self, build: Callable[[], Built], lock: BuildLock, folder: str) -> Optional[Arrays]:
        """Build, write and load them; None if the lock was lost meanwhile."""
        arrays = build()
        needed = sum(array.nbytes for array in arrays.values())
        try:
            self._write(arrays, lock, folder)
        except OSError as error:
            if not lock.held():
                return None
            raise self._failed(folder, error, needed) from None
        del arrays
        written = self._load(folder)
        if written is None or not written.good:
            reason = written.problem if written else "it is not there"
            raise UsageError(f"The index just written cannot be used: {reason}. Check the disk under {folder}.")
        return written.arrays

    def _write(self, arrays: Built, lock: BuildLock, folder: str) -> None:
        """Write the files into a folder of their own, and give them their names when all are on the disk."""
        self._clear(folder)
        building = Path(folder, f".{self.hash}.by-{process_name()}.building")
        building.mkdir()
        try:
            checked = self._checked(folder)
            partial = {part: self.path(str(building), part) for part in self.parts}
            hashes = {part: save_npy(path, arrays[part]) for part, path in partial.items()}
            problem = self._problem_of(partial)
            if problem:
                raise UsageError(f"The index just built cannot be used: {problem}.")
            record = self._beside(str(building), "json")
            atomic_write_json(record, record_of(self._fingerprint(checked), partial, hashes))
            Path(self.path(str(building))).write_bytes(self.desc.encode())
            fsync_file(self.path(str(building)))
            if not lock.held():
                raise OSError(errno.ESTALE, "another process has taken over")
            for path in (*partial.values(), record, self.path(str(building))):
                os.replace(path, os.path.join(folder, os.path.basename(path)))
            fsync_folder(folder)
            for part in self.parts:
                checked.note(part, self.path(folder, part), hashes[part])
            checked.write(self._beside(folder, "checked"))
        finally:
            shutil.rmtree(building, ignore_errors=True)

    def _problem_of(self, paths: Mapping[str, str]) -> Optional[str]:
        try:
            return self.problem({part: map_npy(path) for part, path in paths.items()})
        except ValueError as error:
            return str(error)

    def _clear(self, folder: str) -> None:
        """Remove what builders have left that were killed: nobody but the owner of the lock builds."""
        remove_partial_files(folder)
        for left in Path(folder).glob(f".{self.hash}.*.building"):
            shutil.rmtree(left, ignore_errors=True)
        for left in Path(folder).glob(f"{self.hash}.lock.*"):
            left.unlink()

    def _wait(self, locks: Mapping[str, LockFile], is_builder: bool, began: float) -> Optional[Arrays]:
        """The good set that another process has written; None if that one has died, or does not begin."""
        reported = free_since = time.monotonic()
        awaited = " or ".join(self.path(folder) for folder in dict.fromkeys(self.folders))
        logger.info(f"building indices on rank 0 ... waiting for {awaited}")
        pause = _FIRST_POLL_SECONDS
        while True:
            arrays = self._good(passing_over=True)
            if arrays is not None:
                logger.info("build success")
                return arrays
            now = time.monotonic()
            taken = [lock for lock in locks.values() if lock.look()]
            free_since = now if taken else free_since
            if any(lock.dead for lock in taken) or (not taken and (is_builder or now - free_since > PATIENCE)):
                self._say_why(taken, is_builder)
                return None
            if now - began > WAIT_SECONDS:
                raise self._in_vain(awaited, now - began, taken)
            if now - reported > _REPORT_EVERY:
                logger.info(f"still waiting for {awaited} ({now - began:.0f} s{_owners(taken)})")
                reported = now
            time.sleep(pause)
            pause = min(2 * pause, _POLL_SECONDS)

    def _say_why(self, taken: Sequence[LockFile], is_builder: bool) -> None:
        if taken:
            logger.warning(f"The process that built {taken[0].path[:-5]} has ended in the middle{_owners(taken)}.")
        elif not is_builder:
            logger.warning(
                f"Nobody has begun to build the index {self.path(self.folders[-1])} within {PATIENCE:g} s, so this "
                "process does. Does share_folder say how the data is stored?"
            )

    def _in_vain(self, awaited: str, seconds: float, taken: Sequence[LockFile]) -> UsageError:
        reasons = [found.problem for found in self._look() if found.problem]
        return UsageError(
            f"Waited {seconds:.0f} s in vain for {awaited}, which another process should have written"
            + (f" ({'; '.join(reasons)})" if reasons else _owners(taken))
            + ". Look at the log of the first rank; with --share_folder true all machines must see the same "
            "folder, with false each machine's first rank builds its own."
        )


def _owners(taken: Sequence[LockFile]) -> str:
    return "".join(f"; the lock is that of {lock.owner}" for lock in taken)


def is_index_builder(share_folder: bool) -> bool:
    """Whether this process builds: the first of its machine, or with a shared folder only the first of all."""
    return os.environ.get("PADDLE_TRAINER_ID" if share_folder else "PADDLE_RANK_IN_NODE", "0") == "0"
