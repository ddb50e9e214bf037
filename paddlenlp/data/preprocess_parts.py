"""What a run that makes a dataset leaves on the disk, so that a later run can go on after a kill.

`{prefix}.parts/` holds the files that grow, `run.json` (inputs and options) and `journal.json` (how far it is: written
after the files were synced, atomically). It goes when the dataset is whole.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Dict, Optional, Sequence

from paddlenlp.data.partial_files import GrowingFile
from paddlenlp.data.preprocess_encode import DIGEST_BYTES, DocumentEncoder
from paddlenlp.data.sidecar import sample_sha256
from paddlenlp.data.text_shares import Piece
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_write_json, parse_json
from paddlenlp.utils.locks import LockedByOther, lock_file
from paddlenlp.utils.log import logger

FORMAT = 1


def describe_run(pieces: Sequence[Piece], encoder: DocumentEncoder, **options: Any) -> Dict[str, Any]:
    """All that decides which tokens a run writes: inputs (length, time of change, sampled hash, and which part of it),
    options, tokenizer."""
    inputs = []
    for piece in pieces:
        found, part = piece.path.stat(), [] if piece.stop is None else [piece.start, piece.stop]
        inputs.append([str(piece.path), found.st_size, found.st_mtime_ns, sample_sha256(str(piece.path)), *part])
    tokenizer = {"sha256": encoder.tokenizer.fingerprint(), "vocab_size": len(encoder.tokenizer)}
    chosen = {**asdict(encoder.options), "append_eos": encoder.append_eos, **options}
    return {"format": FORMAT, "tokenizer": tokenizer, "options": chosen, "inputs": inputs}


def difference(old: Any, new: Dict[str, Any]) -> str:
    """What of one description another does not share, in words; "" if they are equal."""
    if not isinstance(old, dict) or old.get("format") != new["format"]:
        return "it was begun by another version"
    if old.get("tokenizer") != new["tokenizer"]:
        return "the tokenizer is another one"
    options = old.get("options") or {}
    for name, value in new["options"].items():
        if options.get(name) != value:
            return f"{name} is {value!r}, was {options.get(name)!r}"
    known = {found[0]: found for found in old.get("inputs") or []}
    for found in new["inputs"]:
        if known.get(found[0]) != found:
            return f"{found[0]} {'has changed' if found[0] in known else 'is new among the inputs'}"
    return "" if old == new else "the inputs are others, or in another order"


class Parts:
    """The folder `{prefix}.parts`, held by one process at a time; a context manager.

    Attributes:
        folder: where the files that grow stand.
        state: what the last run with the same description saved; None if there is nothing to go on from.

    Raises:
        UsageError: another process is making the same dataset.
        OSError: the folder cannot be made.
    """

    def __init__(self, prefix: str, description: Dict[str, Any]) -> None:
        self.folder = Path(prefix + ".parts")
        self.state: Optional[Dict[str, Any]] = None
        self._description = parse_json(json.dumps(description))  # as it will be read again: lists for tuples
        self._prefix = prefix
        self._lock: Optional[IO[bytes]] = None

    def __enter__(self) -> Parts:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = open(self.folder / "lock", "wb")  # noqa: SIM115
        try:
            lock_file(self._lock)
        except LockedByOther:
            self._lock.close()
            raise UsageError(
                f"{self._prefix}: another process is making this dataset. Wait for it or choose a prefix"
            ) from None
        except OSError as error:
            logger.info(f"{self._lock.name}: cannot be locked ({error.strerror or error}); run one process at a time")
        self._find_state()
        return self

    def _find_state(self) -> None:
        run, journal = self.folder / "run.json", self.folder / "journal.json"
        if not self.begun:
            self.begin_anew()
            return
        try:
            changed = difference(parse_json(run.read_bytes()), self._description)
            self.state = parse_json(journal.read_bytes())
        except (OSError, ValueError) as error:
            changed = f"they cannot be read: {error}"
        if changed:
            self.begin_anew(changed)

    def begin_anew(self, reason: str = "") -> None:
        """Remove what is there, and note what this run is."""
        if reason:
            logger.warning(f"{self.folder}: the parts of an earlier run are of no use, begun anew: {reason}")
        self.state = None
        for path in self.folder.iterdir():
            if path.name != "lock":
                path.unlink()
        atomic_write_json(self.folder / "run.json", self._description)

    def save(self, state: Dict[str, Any]) -> None:
        """Note how far the run is; everything that `state` speaks of must be on the disk."""
        atomic_write_json(self.folder / "journal.json", state)

    @property
    def begun(self) -> bool:
        """Whether there is something that a later run can go on from."""
        return (self.folder / "journal.json").is_file()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def __exit__(self, *_: Any) -> None:
        if self._lock is not None:
            self._lock.close()


class SeenDocuments:
    """Digests of all documents kept so far, in memory (about 100 bytes each) and on the disk.

    Args:
        folder: of the parts.
        state: what `sync` returned in an earlier run.
    """

    def __init__(self, folder: Path, state: Optional[Dict[str, Any]] = None) -> None:
        self._file = GrowingFile(folder / "digests", f"V{DIGEST_BYTES}", state)
        self._known = {digest for block in self._file.blocks() for digest in _cut(block.tobytes())}
        self.sync, self.close = self._file.sync, self._file.close

    def new(self, digests: bytes) -> list:
        """Whether each document is the first of its text, `[documents]`."""
        found = []
        for digest in _cut(digests):
            found.append(digest not in self._known)
            if found[-1]:
                self._known.add(digest)
                self._file.append(digest)
        return found


def _cut(digests: bytes) -> list:
    return [digests[low : low + DIGEST_BYTES] for low in range(0, len(digests), DIGEST_BYTES)]


__all__ = ["Parts", "SeenDocuments", "describe_run", "difference"]
