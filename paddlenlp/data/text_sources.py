"""Text files as a stream of chunks of raw records: .jsonl, .json and .txt, each also packed as .gz or .zst."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
from dataclasses import dataclass, field
from glob import glob, has_magic
from pathlib import Path
from typing import Any, Iterable, Iterator, List, Sequence, Tuple, Union

from paddlenlp.utils.errors import UsageError

KINDS = (".jsonl", ".json", ".txt")
PACKINGS = (".gz", ".zst")
CHUNK_RECORDS = 256
CHUNK_BYTES = 1 << 20
_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"

Record = Tuple[int, bytes]


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
        path: the file.
        is_json: whether a record is a JSON object; otherwise it is the text itself.
        records: (number of its first line, bytes) of each.
        read: bytes of the file on disk that were read since the last chunk.
        problems: what was wrong with the file itself.
    """

    path: str
    is_json: bool
    records: List[Record] = field(default_factory=list)
    read: int = 0
    problems: List[Problem] = field(default_factory=list)

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


def kind_of(path: Path) -> str:
    """ ".jsonl", ".json" or ".txt" of a file that may be packed; "" for other files."""
    name = path.name
    for packing in PACKINGS:
        name = name[: -len(packing)] if name.endswith(packing) else name
    suffix = os.path.splitext(name)[1]
    return suffix if suffix in KINDS else ""


def _expected() -> str:
    return f"Expected {', '.join(KINDS)}, each also with {' or '.join(PACKINGS)}"


def read_chunks(files: Iterable[Path], separator: str = "") -> Iterator[Chunk]:
    """The records of all files in order: at most CHUNK_RECORDS and about CHUNK_BYTES at a time.

    A line of a .jsonl file is a record, so is an item of the array of a .json file (or a line, where it holds none);
    in a .txt file records end at a line that is `separator`, by default an empty line.
    A file that breaks off or is damaged ends with a chunk that carries the problem.
    """
    for path in files:
        raw: io.BufferedReader = io.BufferedReader(io.FileIO(path), _BLOCK)
        with raw:
            yield from _chunks_of(path, raw, separator)


def _chunks_of(path: Path, raw: io.BufferedReader, separator: str) -> Iterator[Chunk]:
    chunk = Chunk(str(path), kind_of(path) != ".txt")
    size = position = line = 0
    try:
        for line, content in _records(path, raw, separator):
            chunk.records.append((line, content))
            size += len(content)
            if size >= CHUNK_BYTES or len(chunk.records) >= CHUNK_RECORDS:
                chunk.read, position = raw.tell() - position, raw.tell()
                yield chunk
                chunk, size = Chunk(chunk.path, chunk.is_json), 0
    except UsageError:
        raise
    except Exception as error:
        # The libraries that unpack share no class of error.
        chunk.problems.append(Problem(chunk.path, line + 1, f"the file is damaged from here on: {error}"))
    chunk.read = raw.tell() - position
    yield chunk


def _records(path: Path, raw: io.BufferedReader, separator: str) -> Iterator[Record]:
    stream = _unpacked(path, raw)
    if stream.peek(3)[:3] == _BOM:
        stream.read(3)
    if kind_of(path) == ".txt":
        return _paragraphs(stream, separator.encode())
    if kind_of(path) == ".json" and stream.peek(_BLOCK).lstrip()[:1] == b"[":
        return _array_items(stream)
    return ((number, line) for number, line in enumerate(stream, 1) if not line.isspace())


def _unpacked(path: Path, raw: io.BufferedReader) -> io.BufferedReader:
    if path.name.endswith(".gz"):
        return io.BufferedReader(gzip.GzipFile(fileobj=raw), _BLOCK)  # type: ignore[arg-type]
    if path.name.endswith(".zst"):
        return io.BufferedReader(_ZstdFrames(path, raw), _BLOCK)
    return raw


class _ZstdFrames(io.RawIOBase):
    """Unpacked zstd frames; unlike the library's own reader it says when the last one breaks off."""

    def __init__(self, path: Path, raw: io.BufferedReader):
        try:
            import zstandard
        except ImportError:
            raise UsageError(f"{path}: reading .zst needs `pip install zstandard`") from None
        self._unpacker = zstandard.ZstdDecompressor()
        self._raw = raw
        self._frame: Any = None
        self._packed = b""
        self._held = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self._held:
            packed = self._packed or self._raw.read(_BLOCK // 8)
            if not packed:
                if self._frame is not None:
                    raise EOFError("it ends inside a zstd frame")
                return 0
            self._frame = self._frame or self._unpacker.decompressobj()
            self._held, self._packed = memoryview(self._frame.decompress(packed)), b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        size = min(len(target), len(self._held))
        target[:size] = self._held[:size]
        self._held = self._held[size:]
        return size


def _paragraphs(stream: Iterable[bytes], separator: bytes) -> Iterator[Record]:
    lines: List[bytes] = []
    number = 0
    for number, line in enumerate(stream, 1):
        if line.strip() == separator:
            if lines:
                yield number - len(lines), b"".join(lines)
            lines = []
        else:
            lines.append(line)
    if lines:
        yield number + 1 - len(lines), b"".join(lines)


def _array_items(stream: io.BufferedReader) -> Iterator[Record]:
    """The items of one JSON array, decoded as they come.

    Raises:
        ValueError: what follows is not JSON, or the array is not closed.
    """
    text = codecs.getreader("utf-8")(stream)
    decoder = json.JSONDecoder()
    held = text.read(_BLOCK).lstrip()[1:]
    line, wanted = 1, _BLOCK
    while True:
        rest = held.lstrip(" \t\r\n,")
        line += held[: len(held) - len(rest)].count("\n")
        held = rest
        if held.startswith("]"):
            return
        try:
            _, end = decoder.raw_decode(held)
        except ValueError:
            more = text.read(wanted)
            if not more:
                raise ValueError("the array holds something that is not JSON, or is not closed") from None
            held, wanted = held + more, wanted * 2  # doubling keeps long items linear
            continue
        yield line, held[:end].encode("utf-8")
        line += held.count("\n", 0, end)
        held = held[end:]


__all__ = ["Chunk", "Problem", "find_text_files", "kind_of", "read_chunks"]
