"""Text files as a stream of chunks of raw records: .jsonl, .json, .txt (each also .gz or .zst) and .parquet."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path
from typing import Iterator, List, Sequence, Tuple, Union

from paddlenlp.data.text_records import KINDS, PACKINGS, Place, Record, kind_of, open_records
from paddlenlp.data.text_shares import Piece
from paddlenlp.utils.errors import UsageError

CHUNK_RECORDS = 256
CHUNK_BYTES = 1 << 20
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Problem:
    """Something in an input that cannot be used: `path:line: reason`."""

    path: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.reason}"


@dataclass
class Chunk:
    """Some records of one file, in order.

    Attributes:
        path: the file, and where the piece of it starts.
        is_json: whether a record is a JSON object; otherwise it is the text itself.
        records: (number of its first line, bytes) of each.
        read: bytes of the file on disk that were read since the last chunk.
        problems: what was wrong with the file itself.
        place: where the next chunk starts.
    """

    path: str
    is_json: bool
    records: List[Record] = field(default_factory=list)
    read: int = 0
    problems: List[Problem] = field(default_factory=list)
    place: Place = Place()

    @property
    def size(self) -> int:
        """Bytes of all records."""
        return sum(len(content) for _, content in self.records)


def find_text_files(inputs: Union[str, Sequence[str]]) -> Tuple[List[Path], List[Path]]:
    """Text files named by `inputs` (files, folders, patterns), and those of other kinds that were passed over.

    A folder stands for all files in it and below it, in the order of their names; hidden ones are left out.

    Raises:
        UsageError: an input does not exist, a file named outright is of another kind, or there is no text file at all.
    """
    found: List[Path] = []
    passed_over: List[Path] = []
    for name in [inputs] if isinstance(inputs, str) else inputs:
        for path in _expand(name):
            if path.is_dir():
                files = sorted(file for file in path.rglob("*") if file.is_file() and not _hidden(file, path))
                found += [file for file in files if _is_text(file)]
                passed_over += [file for file in files if not _is_text(file)]
            elif kind_of(path):
                found.append(path)
            else:
                raise UsageError(f"{path}: not a text file this reads. {_expected()}")
    if not found:
        raise UsageError(f"no text files in {inputs}. {_expected()}")
    return list(dict.fromkeys(found)), passed_over


def _is_text(file: Path) -> bool:
    """Whether a file found in a folder is text to read; a dataset's own .meta.json is not."""
    return bool(kind_of(file)) and not file.name.endswith(".meta.json")


def _expand(name: str) -> List[Path]:
    path = Path(name).expanduser()
    if path.exists():
        return [path]
    matches = sorted(glob(str(path), recursive=True)) if has_magic(name) else []
    if not matches:
        raise UsageError(f"{name}: no such file or folder")
    return [Path(match) for match in matches]


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def _expected() -> str:
    return f"Expected {', '.join(KINDS)}; all but the last also with {' or '.join(PACKINGS)}"


def read_chunks(
    files: Sequence[Union[Path, Piece]],
    separator: str = "",
    key: str = "text",
    start: Place = Place(),  # noqa: B008 (frozen)
) -> Iterator[Chunk]:
    """The records of all files, or pieces of files, in order: at most CHUNK_RECORDS and about CHUNK_BYTES at a time.

    A line of a .jsonl file is a record, so is an item of the array of a .json file (or a line, where it holds none) and
    a row of a .parquet file; in a .txt file records end at a line that is `separator`, by default an empty line.
    A file that breaks off or is damaged ends with a chunk that carries the problem.

    Args:
        key: the column to read from .parquet files.
        start: the `place` of a chunk; reading goes on after it.

    Raises:
        UsageError: a library that reads such files is missing, or a table has no column `key`.
    """
    for number in range(start.file, len(files)):
        place, source = start if number == start.file else Place(number), files[number]
        piece = source if isinstance(source, Piece) else Piece(source)
        with io.BufferedReader(piece.open(), _BLOCK) as raw:
            yield from _chunks_of(piece, raw, place, separator, key)  # type: ignore[arg-type]


def _chunks_of(piece: Piece, raw: io.BufferedReader, place: Place, separator: str, key: str) -> Iterator[Chunk]:
    path, chunk = piece.path, Chunk(str(piece), kind_of(piece.path) != ".txt")
    size = position = 0
    stream = None
    try:
        stream = open_records(path, raw, place, separator, key)
        position = stream.read if place.records else 0
        for record in stream:
            chunk.records.append(record)
            size += len(record[1])
            if size >= CHUNK_BYTES or len(chunk.records) >= CHUNK_RECORDS:
                chunk.read, position = stream.read - position, stream.read
                chunk.place = Place(place.file, stream.records, stream.offset, stream.line)
                yield chunk
                chunk, size = Chunk(chunk.path, chunk.is_json), 0
    except UsageError:
        raise
    except Exception as error:
        # The libraries that unpack share no class of error.
        line = stream.line + 1 if stream else 1
        chunk.problems.append(Problem(chunk.path, line, f"the file is damaged from here on: {error}"))
    chunk.read = piece.size - position
    chunk.place = Place(place.file + 1)
    yield chunk


__all__ = ["Chunk", "Place", "Problem", "find_text_files", "kind_of", "read_chunks"]
