"""Tensors on disk: safetensors files, their shards and index (reading; writing is in `tensor_writer`).

bfloat16 has no NumPy type: as in Paddle, a NumPy array of dtype uint16 stands for the bits of bfloat16 values.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np
from safetensors import SafetensorError, safe_open

from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import PathLike
from paddlenlp.utils.tensor_writer import NUMPY_TYPES, LazyTensor, WrittenFile, write_shards, write_tensor_file

__all__ = ["LazyTensor", "TensorFiles", "WrittenFile", "bf16_to_float32", "write_shards", "write_tensor_file"]


class _Entry(NamedTuple):
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
    Tensors are memory-mapped, so that a slice reads only its own bytes. As a mapping it gives what `raw` gives.

    Raises:
        UsageError: no such files, files or tensors missing, a damaged file or index; all of them named.
    """

    def __init__(self, folder: PathLike, stem: str = "model") -> None:
        self.folder = Path(folder)
        self.stem = stem
        weight_map = _weight_map(self.folder, stem)
        self.files: List[str] = sorted(set(weight_map.values())) if weight_map else [f"{stem}.safetensors"]
        self.metadata: Dict[str, str] = {}
        self._entries: Dict[str, _Entry] = {}
        self._maps: Dict[str, np.ndarray] = {}
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
                self._entries[name] = _Entry(file, info["dtype"], tuple(info["shape"]), start)

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
        """Tensor `name` as a read-only memory-mapped array of the stored type (BF16: uint16 bits); copies nothing."""
        entry = self._entry(name)
        dtype = np.dtype(NUMPY_TYPES[entry.dtype])
        count = int(np.prod(entry.shape, dtype=np.int64))
        if count == 0:
            return np.empty(entry.shape, dtype)
        if entry.file not in self._maps:
            self._maps[entry.file] = np.memmap(self.folder / entry.file, dtype=np.uint8, mode="r")
        content = self._maps[entry.file][entry.start : entry.start + count * dtype.itemsize]
        return np.asarray(content).view(dtype).reshape(entry.shape)

    def slice(self, name: str, *index: Any) -> np.ndarray:
        """Copy of `raw(name)[index]` (slices or numbers, one per axis); reads only the bytes of that part."""
        return np.array(self.raw(name)[tuple(index)], order="C")

    def read(self, name: str, dtype: Any = None) -> np.ndarray:
        """Copy of the values of tensor `name`: BF16 as float32, other types as stored, or converted to `dtype`."""
        values = self.raw(name)
        if self.dtype(name) == "BF16":
            values = bf16_to_float32(values)
        return np.array(values, dtype=dtype, order="C")

    def tensor(self, name: str) -> Any:
        """Tensor `name` as a Paddle tensor of the stored type on the current device."""
        import paddle

        raw = self.raw(name)
        kept = paddle.to_tensor(np.ascontiguousarray(raw).reshape(raw.shape))
        return kept.astype("bfloat16") if self.dtype(name) == "BF16" and kept.dtype != paddle.bfloat16 else kept

    def _entry(self, name: str) -> _Entry:
        if name not in self._entries:
            raise UsageError(f"{self.folder}: no tensor {name} in {self.stem} files; they hold {_some(self)}.")
        return self._entries[name]


def read_header(path: Path) -> Tuple[Dict[str, Any], int]:
    """`(header, byte where the data starts)` of one safetensors file, checked by the safetensors library.

    Raises:
        UsageError: the file is absent, truncated or damaged, or holds a type that NumPy has not.
    """
    try:
        with safe_open(str(path), framework="numpy"):
            pass
        with open(path, "rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size))
    except FileNotFoundError:
        raise UsageError(f"{path}: no such file. Copy or download it again.") from None
    except (OSError, SafetensorError) as error:
        found = f", {path.stat().st_size:,} bytes" if path.is_file() else ""
        raise UsageError(
            f"{path}: not a whole safetensors file ({error}{found}). It was truncated or damaged; copy it again."
        ) from None
    odd = {info["dtype"] for key, info in header.items() if key != "__metadata__"} - NUMPY_TYPES.keys()
    if odd:
        raise UsageError(f"{path}: tensors of type {_some(sorted(odd))} are not supported; use {_some(NUMPY_TYPES)}.")
    return header, 8 + size


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
        weight_map = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
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
