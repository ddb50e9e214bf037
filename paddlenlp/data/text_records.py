"""The raw records of one text file, from its start or from a place that an earlier run reached."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Iterator, List, Tuple

from paddlenlp.utils.errors import UsageError

KINDS = (".jsonl", ".json", ".txt", ".parquet")
PACKINGS = (".gz", ".zst")
_BLOCK = 1 << 20
_ROWS = 256
_BOM = b"\xef\xbb\xbf"

Record = Tuple[int, bytes]
"""Number of its first line (item of an array, row of a table), and its bytes."""


@dataclass(frozen=True)
class Place:
    """A border between two records of a list of files.

    Attributes:
        file: index of the file.
        records: of that file, before the border.
        offset: bytes of its unpacked content before the border; 0 where records are not made of lines.
        line: lines before the border.
    """

    file: int = 0
    records: int = 0
    offset: int = 0
    line: int = 0


def kind_of(path: Path) -> str:
    """ ".jsonl", ".json", ".txt" (these may be packed) or ".parquet"; "" for other files."""
    name = path.name
    for packing in PACKINGS:
        name = name[: -len(packing)] if name.endswith(packing) else name
    suffix = os.path.splitext(name)[1]
    return suffix if suffix in KINDS and (suffix != ".parquet" or name == path.name) else ""


class RecordStream:
    """The records of a file in order.

    Attributes:
        records, offset, line: what lies before the next record, as in `Place`.
    """

    def __init__(self, raw: io.BufferedReader, place: Place) -> None:
        self.raw = raw
        self.records, self.offset, self.line = place.records, place.offset, place.line

    def __iter__(self) -> Iterator[Record]:
        raise NotImplementedError

    @property
    def read(self) -> int:
        """Bytes of the file on disk that were read."""
        return self.raw.tell()


def open_records(path: Path, raw: io.BufferedReader, place: Place, separator: str, key: str) -> RecordStream:
    """The records of file `path`, opened as `raw`, after `place`.

    Args:
        separator: the line between two records of a .txt file.
        key: column of the text in a .parquet file.

    Raises:
        UsageError: a library is missing, or a table has no such column.
    """
    if kind_of(path) == ".parquet":
        return _Rows(path, raw, place, key)
    stream = _unpacked(path, raw)
    if kind_of(path) == ".txt":
        return _Paragraphs(raw, stream, place, separator.encode())
    if kind_of(path) == ".json" and _without_bom(stream.peek(_BLOCK)).lstrip()[:1] == b"[":
        return _Items(raw, stream, place)
    return _Lines(raw, stream, place)


def _without_bom(content: bytes) -> bytes:
    return content[len(_BOM) :] if content.startswith(_BOM) else content


class _Lines(RecordStream):
    def __init__(self, raw: io.BufferedReader, stream: io.BufferedReader, place: Place) -> None:
        super().__init__(raw, place)
        self.stream = stream
        if self.offset:
            _skip(stream, self.offset)
        elif stream.peek(3)[:3] == _BOM:
            self.offset = len(stream.read(3))

    def __iter__(self) -> Iterator[Record]:
        for content in self.stream:
            self.line += 1
            self.offset += len(content)
            if not content.isspace():
                self.records += 1
                yield self.line, content


def _skip(stream: io.BufferedReader, offset: int) -> None:
    if stream.seekable():
        stream.seek(offset)
        return
    while offset:
        found = len(stream.read(min(offset, _BLOCK)))
        if not found:
            raise EOFError("it is shorter than it was")
        offset -= found


class _Paragraphs(_Lines):
    def __init__(self, raw: io.BufferedReader, stream: io.BufferedReader, place: Place, separator: bytes) -> None:
        super().__init__(raw, stream, place)
        self.separator = separator

    def __iter__(self) -> Iterator[Record]:
        lines: List[bytes] = []
        for content in self.stream:
            self.line += 1
            self.offset += len(content)
            if content.strip() != self.separator:
                lines.append(content)
            elif lines:
                self.records += 1
                yield self.line - len(lines), b"".join(lines)
                lines = []
        if lines:
            self.records += 1
            yield self.line + 1 - len(lines), b"".join(lines)


class _Items(RecordStream):
    """The items of one JSON array, decoded as they come."""

    def __init__(self, raw: io.BufferedReader, stream: io.BufferedReader, place: Place) -> None:
        super().__init__(raw, place)
        self._text = codecs.getreader("utf-8-sig")(stream)
        self._left = self._items()
        for _ in range(place.records):
            next(self._left, None)

    def __iter__(self) -> Iterator[Record]:
        for record in self._left:
            self.records += 1
            yield record

    def _items(self) -> Iterator[Record]:
        decoder = json.JSONDecoder()
        start = self._text.read(_BLOCK)
        held = start.lstrip()[1:]
        self.line, wanted = 1 + start[: len(start) - len(held)].count("\n"), _BLOCK
        while True:
            rest = held.lstrip(" \t\r\n,")
            self.line += held[: len(held) - len(rest)].count("\n")
            held = rest
            if held.startswith("]"):
                return
            try:
                _, end = decoder.raw_decode(held)
            except ValueError:
                more = self._text.read(wanted)
                if not more:
                    raise ValueError("the array holds something that is not JSON, or is not closed") from None
                held, wanted = held + more, wanted * 2  # doubling keeps long items linear
                continue
            yield self.line, held[:end].encode("utf-8")
            self.line += held.count("\n", 0, end)
            held = held[end:]


class _Rows(RecordStream):
    """One column of a table; a row becomes a JSON object with this one key."""

    def __init__(self, path: Path, raw: io.BufferedReader, place: Place, key: str) -> None:
        super().__init__(raw, place)
        try:
            from pyarrow import parquet
        except ImportError as error:  # missing, or made for another NumPy
            raise UsageError(f"{path}: reading .parquet needs `pip install 'pyarrow<20'` ({error})") from None
        self._size = path.stat().st_size
        self._table = parquet.ParquetFile(raw)
        self._key = key
        names = self._table.schema_arrow.names
        if key not in names:
            raise UsageError(f"{path}: no column {key!r}; found {', '.join(names[:20])}. --json_key names the column")

    def __iter__(self) -> Iterator[Record]:
        passed, row = self.records, 0
        for group in range(self._table.metadata.num_row_groups):
            rows = self._table.metadata.row_group(group).num_rows
            if row + rows <= passed:
                row += rows
                continue
            for batch in self._table.iter_batches(_ROWS, row_groups=[group], columns=[self._key]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    if row > passed:
                        self.records = row
                        yield row, self._as_json(value)

    def _as_json(self, value: Any) -> bytes:
        text = value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
        return json.dumps({self._key: text}, default=repr).encode()

    @property
    def read(self) -> int:
        return self._size * self.records // max(self._table.metadata.num_rows, 1)


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


__all__ = ["KINDS", "PACKINGS", "Place", "Record", "RecordStream", "kind_of", "open_records"]
