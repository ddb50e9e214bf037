"""Writing safetensors files tensor by tensor, with the hash of the file computed on the way.

The bytes equal those of the safetensors library; that library wants all tensors of a file in host memory at once, which
for a model on a GPU or cut over ranks is a whole extra copy, and reads nothing back to hash it.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from paddlenlp.parallel.heartbeat import beat
from paddlenlp.utils.files import PathLike, atomic_path, atomic_write_json

NUMPY_TYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "I16": np.int16,
    "F16": np.float16,
    "BF16": np.uint16,
    "I32": np.int32,
    "F32": np.float32,
    "F64": np.float64,
    "I64": np.int64,
}
"""Type in the format -> NumPy type, in the order in which the format lays tensors out, last first."""

_ORDER = {code: position for position, code in enumerate(NUMPY_TYPES)}
_FROM_NUMPY = {np.dtype(kind): code for code, kind in NUMPY_TYPES.items()}
_PIECE = 1 << 20
_SQUARE = 128


@dataclass(frozen=True)
class LazyTensor:
    """A tensor that is made when it is written: `make()` returns an array or Paddle tensor of this `shape` and `dtype`.

    `dtype` is a NumPy type name or "bfloat16".
    """

    shape: Tuple[int, ...]
    dtype: str
    make: Callable[[], Any]


class WrittenFile(NamedTuple):
    """A file that was written: its name, size in bytes and, if asked for, SHA-256 in hexadecimal digits."""

    name: str
    size: int
    sha256: Optional[str]


def write_shards(
    folder: PathLike,
    stem: str,
    tensors: Mapping[str, Any],
    *,
    max_shard_bytes: Optional[int] = None,
    metadata: Optional[Mapping[str, str]] = None,
    index_fields: Optional[Mapping[str, Any]] = None,
    checksum: bool = False,
) -> List[WrittenFile]:
    """Write `tensors` as `{stem}-00001-of-0000n.safetensors` ... and `{stem}.safetensors.index.json` into `folder`.

    Each file appears whole or not at all, the index last; shards of an earlier write under the same stem that the new
    index does not name are then removed. Tensors are filled into shards in the order given; one that is larger than
    `max_shard_bytes` gets a shard of its own.

    Args:
        tensors: name -> Paddle tensor, NumPy array (uint16 = bfloat16 bits) or LazyTensor.
        max_shard_bytes: most bytes of tensors in one file; None: all in one.
        metadata: the header's metadata, `{"format": "np"}` by default.
        index_fields: further entries of the index beside `metadata` and `weight_map`.
        checksum: also compute the SHA-256 of each tensor file.

    Returns:
        The tensor files written (not the index).
    """
    folder = Path(folder)
    shards = _split({name: tensor_bytes(value) for name, value in tensors.items()}, max_shard_bytes)
    written, weight_map = [], {}
    for number, names in enumerate(shards, start=1):
        file = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        written.append(
            write_tensor_file(folder / file, {name: tensors[name] for name in names}, metadata, checksum=checksum)
        )
        weight_map.update(dict.fromkeys(names, file))
    total = sum(tensor_bytes(value) for value in tensors.values())
    index = {"metadata": {"total_size": total}, **(index_fields or {}), "weight_map": weight_map}
    atomic_write_json(folder / f"{stem}.safetensors.index.json", index, indent=4)
    _remove_stale(folder, stem, {file.name for file in written})
    return written


def write_tensor_file(
    path: PathLike, tensors: Mapping[str, Any], metadata: Optional[Mapping[str, str]] = None, *, checksum: bool = False
) -> WrittenFile:
    """Write one safetensors file atomically, one tensor's copy in host memory at a time.

    Raises:
        ValueError: a LazyTensor made something of another size than it announced.
    """
    with atomic_path(path) as partial:
        stream = TensorStream(partial, tensors, metadata, checksum=checksum)
        try:
            for name in file_order(tensors):
                value = tensors[name]
                data = host_bytes(value.make() if isinstance(value, LazyTensor) else value)
                if data.nbytes != tensor_bytes(value):
                    raise ValueError(
                        f"{path}: tensor {name} has {data.nbytes} bytes where {tensor_bytes(value)} were announced"
                    )
                stream.write(data)
                del data  # let go before the next one is made
        finally:
            stream.close()
    return WrittenFile(Path(path).name, stream.size, stream.sha256)


class TensorStream:
    """A safetensors file whose data is written piece by piece, in the order of `file_order`.

    Args:
        path: of the file, which is overwritten.
        tensors: name -> array, tensor or LazyTensor; only shapes and types are looked at.
        metadata: the header's metadata, `{"format": "np"}` by default.
        checksum: also compute the SHA-256 of the file.

    Attributes:
        size: bytes written so far.
        whole_size: bytes that the file has when it is complete.
    """

    def __init__(
        self,
        path: PathLike,
        tensors: Mapping[str, Any],
        metadata: Optional[Mapping[str, str]] = None,
        *,
        checksum: bool = False,
    ) -> None:
        header = _header(tensors, {"format": "np"} if metadata is None else metadata)
        self.whole_size = len(header) + sum(map(tensor_bytes, tensors.values()))
        self.size = 0
        self._digest = hashlib.sha256() if checksum else None
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115  # open as long as this object writes
        try:
            self.write(memoryview(header))
        except BaseException:
            self.close()
            raise

    @property
    def sha256(self) -> Optional[str]:
        """Of what was written so far, in hexadecimal digits; None without `checksum`."""
        return self._digest.hexdigest() if self._digest else None

    def write(self, data: memoryview) -> None:
        """Append bytes."""
        _write(self._file, data, self._digest)
        self.size += len(data)

    def sync(self) -> None:
        """Wait until everything written is on the disk."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def host_bytes(tensor: Any) -> memoryview:
    """The bytes of a Paddle tensor or array; of a contiguous one in host memory without a copy.

    The view keeps its owner alive.
    """
    if isinstance(tensor, np.ndarray):
        return _contiguous(tensor).reshape(-1).view(np.uint8).data
    if not tensor.place.is_cpu_place():
        tensor = tensor.cpu()
    tensor = tensor.detach().contiguous()
    size = tensor.size * tensor.element_size()
    if size == 0:
        return memoryview(b"")
    buffer = (ctypes.c_ubyte * size).from_address(tensor.data_ptr())
    buffer.owner = tensor
    return memoryview(buffer).cast("B")


def _contiguous(array: np.ndarray) -> np.ndarray:
    """`array` in C order. A matrix that lies the other way is copied in squares, which is several times as fast."""
    if array.ndim != 2 or array.flags.c_contiguous or not array.flags.f_contiguous:
        return np.ascontiguousarray(array)
    made = np.empty(array.shape, array.dtype)
    for row in range(0, array.shape[0], _SQUARE):
        for column in range(0, array.shape[1], _SQUARE):
            square = slice(row, row + _SQUARE), slice(column, column + _SQUARE)
            made[square] = array[square]
    return made


def type_code(value: Any) -> str:
    """The format's word for the type of an array, Paddle tensor or LazyTensor: "F32", "BF16" ...

    Raises:
        ValueError: the format or this writer has no such type.
    """
    dtype = str(value.dtype).replace("paddle.", "")
    if dtype == "bfloat16":
        return "BF16"
    try:
        return _FROM_NUMPY[np.dtype(dtype)]
    except (TypeError, KeyError):
        raise ValueError(f"tensors of type {dtype} cannot be written; convert to one of {list(NUMPY_TYPES)}") from None


def tensor_bytes(value: Any) -> int:
    """Bytes that an array, Paddle tensor or LazyTensor takes in a file."""
    return int(np.prod(tuple(value.shape), dtype=np.int64)) * np.dtype(NUMPY_TYPES[type_code(value)]).itemsize


def file_order(tensors: Mapping[str, Any]) -> List[str]:
    """The names in the order of the data in a file: widest types first, so that all are aligned."""
    return sorted(tensors, key=lambda name: (-_ORDER[type_code(tensors[name])], name))


def _header(tensors: Mapping[str, Any], metadata: Mapping[str, str]) -> bytes:
    """Length and header."""
    entries: Dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for name in file_order(tensors):
        value = tensors[name]
        end = start + tensor_bytes(value)
        entries[name] = {"dtype": type_code(value), "shape": list(value.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _split(sizes: Mapping[str, int], most: Optional[int]) -> List[List[str]]:
    shards: List[List[str]] = [[]]
    room = most
    for name, size in sizes.items():
        if most is not None and room is not None and size > room and shards[-1]:
            shards.append([])
            room = most
        shards[-1].append(name)
        room = None if room is None else room - size
    return shards


def _write(file: Any, data: memoryview, digest: Any) -> None:
    """Write all of `data`; piece by piece, so that the hash reads what is still in the cache."""
    for start in range(0, len(data), _PIECE):
        piece = data[start : start + _PIECE]
        if digest is not None:
            digest.update(piece)
        while len(piece):
            piece = piece[file.write(piece) :]
            beat.progress()


def _remove_stale(folder: Path, stem: str, kept: set) -> None:
    for path in folder.glob(f"{stem}-[0-9]*-of-[0-9]*.safetensors"):
        if path.name not in kept:
            os.unlink(path)
