"""What is known about index files: for which data they were made, their hashes, which of them have been read whole.

`{md5}.json` beside the arrays is the record: the fingerprint of the data and settings they were made for, length and
hashes of each array. It holds nothing of the place, so that copies have equal bytes.

`{md5}.checked` is a note of the place: length and times (of change of content and of inode) of files, their SHA-256.
A file that still has them is not read whole again. The times are compared for equality only, never with a clock.
"""

from __future__ import annotations

import hashlib
import os
from typing import Any, Dict, List, Mapping, Optional, Sequence, Union

import numpy as np

from paddlenlp.data.mapped import map_file
from paddlenlp.data.sidecar import sample_sha256
from paddlenlp.data.streamed_array import StreamedArray
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.utils.files import atomic_write_json, fsync_file, parse_json, sha256_file

VERSION = 1
"""Grows when the same settings give other arrays."""

_PAGE = 4096


def identity(path: str) -> List[int]:
    """What a file has until somebody writes, copies or replaces it: bytes, and two times in nanoseconds."""
    found = os.stat(path)
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns]


class Checked:
    """SHA-256 of files that have been read whole, by identity.

    Args:
        paths: notes to read; the first that knows a file counts.
    """

    def __init__(self, paths: Sequence[str]) -> None:
        self._known: Dict[str, Any] = {}
        for path in reversed(paths):
            self._known.update(_read_object(path) or {})

    def noted(self, name: str, path: str) -> Optional[str]:
        """The hash of file `path`, noted as `name`; None if it is not known for the file as it is now."""
        found = self._known.get(name)
        if not isinstance(found, dict) or found.get("identity") != identity(path):
            return None
        return str(found.get("sha256"))

    def sha256(self, name: str, path: str) -> str:
        """The same; a file that is not known is read."""
        found = self.noted(name, path)
        if found is None:
            found = _of_this_process(path)
            self.note(name, path, found)
        return found

    def note(self, name: str, path: str, sha256: str) -> None:
        """Remember the hash of a file as it is now."""
        self._known[name] = {"identity": identity(path), "sha256": sha256}

    def write(self, path: str) -> None:
        """Leave the note for others."""
        atomic_write_json(path, self._known, sort_keys=True)


_hashes: Dict[str, Any] = {}


def _of_this_process(path: str) -> str:
    """SHA-256 of a file, read once a process: the splits of a dataset share its index."""
    now = identity(path)
    if _hashes.get(path, (None,))[0] != now:
        _hashes[path] = now, sha256_file(path)
    return str(_hashes[path][1])


def record_of(fingerprint: Mapping[str, Any], paths: Mapping[str, str], hashes: Mapping[str, str]) -> Dict[str, Any]:
    """The record of arrays that lie in `paths`, by name of the array.

    Args:
        hashes: their SHA-256.
    """
    files = {
        part: {"bytes": os.path.getsize(path), "sha256": hashes[part], "sample_sha256": sample_sha256(path)}
        for part, path in paths.items()
    }
    return {"version": VERSION, "fingerprint": dict(fingerprint), "files": files}


def read_record(path: str) -> Optional[Dict[str, Any]]:
    """The record, or None where there is none that is whole."""
    found = _read_object(path)
    files = found.get("files") if found else None
    whole = isinstance(files, dict) and all(
        isinstance(file, dict) and {"bytes", "sha256", "sample_sha256"} <= set(file) for file in files.values()
    )
    return found if whole and isinstance((found or {}).get("fingerprint"), dict) else None


def outdated(record: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> Optional[str]:
    """What of the data or the settings is not as it was when the arrays were made, or None."""
    now = {"version": VERSION, **fingerprint}
    then = {"version": record.get("version"), **record["fingerprint"]}
    changed = [name for name in now if then.get(name) != now[name]]
    return ", ".join(f"{name} was {then.get(name)}, now {now[name]}" for name in changed) or None


def damaged(record: Mapping[str, Any], part: str, path: str) -> Optional[str]:
    """What a look at length and 64 blocks of the array's file shows to be wrong, or None."""
    expected = record["files"].get(part)
    if expected is None:
        return f"{part} is not in its record"
    size = os.path.getsize(path)
    if size != expected["bytes"]:
        return f"{part} has {size:,} bytes, expected {expected['bytes']:,}: it was written in part"
    return None if sample_sha256(path) == expected["sample_sha256"] else altered(part, path)


def altered(part: str, path: str) -> str:
    """The content of an array's file is not what was written: how so."""
    zeros = _zeros_from(path)
    if zeros is None:
        return f"the content of {part} is not what was written"
    return f"{part} holds nothing but zeros from byte {zeros:,} on"


def _zeros_from(path: str) -> Optional[int]:
    """Where the zeros begin that fill the rest of a file, if they are a page at least."""
    content = map_file(path)
    end = len(content)
    while end > 0:
        block = content[max(0, end - (1 << 20)) : end]
        set_bytes = np.flatnonzero(block)
        if len(set_bytes):
            end = end - len(block) + int(set_bytes[-1]) + 1
            break
        end -= len(block)
    return end if len(content) - end >= min(_PAGE, len(content) // 8) else None


def _read_object(path: str) -> Optional[Dict[str, Any]]:
    try:
        with open(path, encoding="utf-8") as file:
            value = parse_json(file.read())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


class _HashedFile:
    """A file to which NumPy writes through Python, which notices a full disk as NumPy's own way does not; and the hash
    of what went into it."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        """Write all of `data`."""
        self._digest.update(data)
        beat.progress()
        return int(self._file.write(data))

    @property
    def sha256(self) -> str:
        """Of all that was written."""
        return self._digest.hexdigest()


def save_npy(path: str, array: Union[np.ndarray, StreamedArray]) -> str:
    """Write an array and have it on the disk; the SHA-256 of the file."""
    with open(path, "wb") as file:
        hashed = _HashedFile(file)
        if isinstance(array, StreamedArray):
            header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape}
            np.lib.format.write_array_header_1_0(hashed, header)  # type: ignore[arg-type]
            for _, rows in array.blocks():
                hashed.write(np.ascontiguousarray(rows, array.dtype).tobytes())
        else:
            np.lib.format.write_array(hashed, array, allow_pickle=False)  # type: ignore[arg-type]
    fsync_file(path)
    beat.progress()
    return hashed.sha256
