"""Tensors on disk: safetensors files, their shards and index (reading; writing is in `tensor_writer`).

bfloat16 has no NumPy type: as in Paddle, a NumPy array of dtype uint16 stands for the bits of bfloat16 values.
"""

from __future__ import annotations

import json
from math import prod
from pathlib import Path
from typing import Any, Dict, Iterable, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from safetensors import SafetensorError, safe_open

from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import PathLike, parse_json
from paddlenlp.utils.reading import read_runs
from paddlenlp.utils.retries import retrying
from paddlenlp.utils.selection import Spans, row_elements, runs_of
from paddlenlp.utils.tensor_writer import NUMPY_TYPES, LazyTensor, WrittenFile, write_shards, write_tensor_file

__all__ = ["Excerpt", "LazyTensor", "TensorFiles", "WrittenFile", "bf16_to_float32"]
__all__ += ["write_shards", "write_tensor_file"]

BLOCK = 1 << 25
"""Bytes that are read at a time where a tensor is copied elsewhere."""


class Entry(NamedTuple):
    """Where one tensor lies."""

    file: str
    dtype: str
    shape: Tuple[int, ...]
    start: int


def bf16_to_float32(bits: np.ndarray) -> np.ndarray:
    """float32 values of the bfloat16 numbers whose bits are `bits` (uint16, any shape)."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


class TensorFiles(Mapping[str, np.ndarray]):
    """The tensors of `{stem}.safetensors`, or of all shards that `{stem}.safetensors.index.json` names, in a folder.

    Opening reads only the headers; it checks that every file named is there and whole and holds what the index says.
    What is read of a tensor are the bytes asked for and no others, and nothing is mapped: what is not returned takes no
    memory. As a mapping it gives what `raw` gives.

    Raises:
        UsageError: no such files, files or tensors missing, a damaged file or index; all of them named. Later: a file
            that cannot be read, also when tried again.
    """

    def __init__(self, folder: PathLike, stem: str = "model") -> None:
        self.folder = Path(folder)
        self.stem = stem
        weight_map = _weight_map(self.folder, stem)
        self.files: List[str] = sorted(set(weight_map.values())) if weight_map else [f"{stem}.safetensors"]
        self.metadata: Dict[str, str] = {}
        self._entries: Dict[str, Entry] = {}
        for file in self.files:
            self._read_header(file, weight_map)
        lost = [f"{name} (in {file})" for name, file in (weight_map or {}).items() if name not in self._entries]
        if lost:
            raise UsageError(
                f"{self.folder}: the index {stem}.safetensors.index.json names {len(lost)} tensor(s) that its files "
                f"do not hold: {_some(lost)}. The folder mixes files of different checkpoints; copy it again."
            )

    def _read_header(self, file: str, weight_map: Optional[Dict[str, str]]) -> None:
        header, data_start = read_header(self.folder / file)
        metadata = header.pop("__metadata__", None)
        if not self.metadata:
            self.metadata = dict(metadata or {})
        for name, info in header.items():
            if weight_map is None or weight_map.get(name) == file:
                start = data_start + info["data_offsets"][0]
                self._entries[name] = Entry(file, info["dtype"], tuple(info["shape"]), start)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.raw(name)

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries

    def shape(self, name: str) -> Tuple[int, ...]:
        """Shape of tensor `name` as stored."""
        return self._entry(name).shape

    def dtype(self, name: str) -> str:
        """Stored type of tensor `name` in the format's own words: "F32", "BF16", "F16", "I64" ..."""
        return self._entry(name).dtype

    def raw(self, name: str) -> np.ndarray:
        """Tensor `name` as a new array of the stored type (BF16: uint16 bits)."""
        return self.part(name).reshape(self.shape(name))

    def part(self, name: str, spans: Optional[Spans] = None, start: int = 0, stop: Optional[int] = None) -> np.ndarray:
        """Elements [start, stop) of the flattened box `spans` of tensor `name`: a new flat array of the stored type.

        Args:
            spans: for each axis the ranges [start, stop) that are wanted, in the order wanted; None: the whole tensor.
        """
        box = spans or _whole(self.shape(name))
        stop = _size(box) if stop is None else stop
        found = np.empty(stop - start, NUMPY_TYPES[self.dtype(name)])
        if found.size:
            self._fill(name, found, *runs_of(self.shape(name), box, start, stop))
        return found

    def _fill(self, name: str, target: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        """Fill the flat `target` with runs of elements of the flattened tensor `name`."""
        entry = self._entry(name)
        self._read(entry.file, target, entry.start + starts * target.itemsize, lengths * target.itemsize)

    def _read(self, file: str, target: np.ndarray, offsets: Iterable[int], lengths: Iterable[int]) -> None:
        try:
            read_runs(self.folder / file, target.view(np.uint8), offsets, lengths)
        except OSError as error:
            raise UsageError(
                f"{self.folder / file}: cannot be read: {error.strerror}. Find out what is wrong with the storage and "
                "start the run again; read_retries sets how often a read is tried again."
            ) from None

    def excerpt(self, name: str, spans: Optional[Spans] = None, start: int = 0, stop: Optional[int] = None) -> Excerpt:
        """What `part` would read, to be read later in blocks."""
        box = spans or _whole(self.shape(name))
        return Excerpt(self, name, box, start, _size(box) if stop is None else stop)

    def read(self, name: str, dtype: Any = None) -> np.ndarray:
        """The values of tensor `name`: BF16 as float32, other types as stored, or converted to `dtype`."""
        values = self.raw(name)
        if self.dtype(name) == "BF16":
            values = bf16_to_float32(values)
        return values if dtype is None else values.astype(dtype, copy=False)

    def tensor(self, name: str) -> Any:
        """Tensor `name` as a Paddle tensor of the stored type on the current device."""
        import paddle

        kept = paddle.to_tensor(self.raw(name))
        return kept.astype("bfloat16") if self.dtype(name) == "BF16" and kept.dtype != paddle.bfloat16 else kept

    def _entry(self, name: str) -> Entry:
        if name not in self._entries:
            raise UsageError(f"{self.folder}: no tensor {name} in {self.stem} files; they hold {_some(self)}.")
        return self._entries[name]


class Excerpt(NamedTuple):
    """Elements [start, stop) of the flattened box `spans` of a stored tensor, read when they are needed."""

    files: TensorFiles
    name: str
    spans: Spans
    start: int
    stop: int

    @property
    def dtype(self) -> str:
        """Stored type, in the format's own words."""
        return self.files.dtype(self.name)

    def blocks(self) -> Iterator[Tuple[int, np.ndarray]]:
        """The elements in flat arrays of the stored type of at most `BLOCK` bytes, each with its first one's place."""
        most = max(1, BLOCK // np.dtype(NUMPY_TYPES[self.dtype]).itemsize)
        for start in range(self.start, self.stop, most):
            stop = min(start + most, self.stop)
            yield start - self.start, self.files.part(self.name, self.spans, start, stop)

    def rows(self) -> Iterator[Tuple[int, np.ndarray]]:
        """A whole box in arrays of some rows along its first axis, of about `BLOCK` bytes, each with its first row."""
        width, row = sum(stop - start for start, stop in self.spans[0]), row_elements(self.spans)
        shape = [sum(stop - start for start, stop in axis) for axis in self.spans[1:]]
        step = max(1, BLOCK // max(1, row * np.dtype(NUMPY_TYPES[self.dtype]).itemsize))
        for first in range(0, width, step):
            count = min(step, width - first)
            block = self.files.part(self.name, self.spans, first * row, (first + count) * row)
            yield first, block.reshape(count, *shape)


def read_header(path: Path) -> Tuple[Dict[str, Any], int]:
    """`(header, byte where the data starts)` of one safetensors file, checked by the safetensors library.

    Raises:
        UsageError: the file is absent, truncated or damaged, or holds a type that NumPy has not.
    """
    try:
        header, size = retrying(lambda: _parse_header(path), path)
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file. Copy or download it again.") from None
    except (OSError, SafetensorError) as error:
        found = f", {path.stat().st_size:,} bytes" if path.is_file() else ""
        raise UsageError(
            f"{path}: not a whole safetensors file ({error}{found}). It was truncated or damaged; copy it again."
        ) from None
    for key, info in header.items():
        if key != "__metadata__" and info["dtype"] == "U16":  # how NumPy, and so PaddleNLP, writes bfloat16
            info["dtype"] = "BF16"
    odd = {info["dtype"] for key, info in header.items() if key != "__metadata__"} - NUMPY_TYPES.keys()
    if odd:
        raise UsageError(f"{path}: tensors of type {_some(sorted(odd))} are not supported; use {_some(NUMPY_TYPES)}.")
    return header, 8 + size


def _parse_header(path: Path) -> Tuple[Dict[str, Any], int]:
    with safe_open(str(path), framework="numpy"):
        pass
    with open(path, "rb") as file:
        size = int.from_bytes(file.read(8), "little")
        return json.loads(file.read(size)), size


def _whole(shape: Sequence[int]) -> Spans:
    return [[(0, size)] for size in shape]


def _size(spans: Spans) -> int:
    return prod(sum(stop - start for start, stop in axis) for axis in spans)


def _weight_map(folder: Path, stem: str) -> Optional[Dict[str, str]]:
    """The index of `stem` in `folder`, checked; None if the tensors lie in one unnumbered file."""
    index = folder / f"{stem}.safetensors.index.json"
    if not index.is_file():
        if (folder / f"{stem}.safetensors").is_file():
            return None
        there = sorted(path.name for path in folder.glob("*")) if folder.is_dir() else []
        state = f"the folder holds {_some(there)}" if there else "the folder is empty or does not exist"
        raise UsageError(f"{folder}: expected {stem}.safetensors or {stem}.safetensors.index.json; {state}.")
    try:
        weight_map = parse_json(retrying(lambda: index.read_text(encoding="utf-8"), index))["weight_map"]
        files = set(weight_map.values())
        if not files or any(Path(file).name != file for file in files):
            raise ValueError("weight_map must name files of its own folder")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"{index}: not an index of tensor files ({error!r}). Copy the folder again.") from None
    absent = sorted(file for file in files if not (folder / file).is_file())
    if absent:
        raise UsageError(
            f"{folder}: {len(absent)} of the {len(files)} files named in {index.name} are missing: {_some(absent)}. "
            "Copy or download them."
        )
    return weight_map


def _some(words: Any, most: int = 12) -> str:
    words = list(words)
    return ", ".join(words[:most]) + (f" and {len(words) - most} more" if len(words) > most else "")
