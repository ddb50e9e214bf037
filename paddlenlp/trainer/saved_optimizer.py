"""The optimizer's tensors in a checkpoint: whole, or the parts of each rank by themselves (`ignore_merge_optimizer`).

The latter lie in `optimizer.{suffix}.safetensors`, the suffix being the rank's place (tp00_pp00_shard00), flat, under
the usual names. The header says under "parts" which elements of which whole tensor each one is, so that any layout can
read them. PaddleNLP's files do not say so; there a tensor is the share of the tensor-parallel rank in the suffix.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Tuple

import numpy as np

from paddlenlp.parallel.catalogue import Whole, whole_of
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import parse_json
from paddlenlp.utils.retries import retrying
from paddlenlp.utils.selection import runs_of
from paddlenlp.utils.tensor_files import Entry, TensorFiles, read_header
from paddlenlp.utils.tensor_writer import NUMPY_TYPES

_PLACE = re.compile(r"\.(?:.*_)?tp(\d+)(?:_.*)?\.safetensors$")


def open_optimizer(folder: Path, model: Any) -> Tuple[TensorFiles, Optional[TensorFiles]]:
    """The state and, if they were saved, the float32 masters in checkpoint `folder`.

    Raises:
        UsageError: files are missing or damaged, or hold quantised moments.
    """
    index = _index(folder)
    if index.get("ckpt_quant_stage") not in (None, "O0"):
        raise UsageError(
            f"{folder}: the moments are quantised (ckpt_quant_stage {index['ckpt_quant_stage']}), which is not read. "
            "Set ignore_load_lr_and_optim to go on from the weights alone."
        )
    if "weight_map" in index:
        has_masters = (folder / "master_weights.safetensors.index.json").is_file()
        return TensorFiles(folder, "optimizer"), TensorFiles(folder, "master_weights") if has_masters else None
    names = index.get("files") or sorted(path.name for path in folder.glob("*.safetensors"))
    wholes = {name: whole_of(name, param, "float32") for name, param in model.named_parameters()}
    groups = [[name for name in names if name.startswith(f"{stem}.")] for stem in ("optimizer", "master_weights")]
    states, masters = (PartFiles(folder, group, wholes) if group else None for group in groups)
    if states is None:
        raise UsageError(f"{folder}: its index names no optimizer files. Copy the folder again.")
    return states, masters


def _index(folder: Path) -> Dict[str, Any]:
    path = folder / "optimizer.safetensors.index.json"
    try:
        found = parse_json(retrying(lambda: path.read_text(encoding="utf-8"), path))
        files = found.get("files", [])
        if not isinstance(files, list) or any(Path(file).name != file for file in files):
            raise ValueError("files must name files of its own folder")
        return found
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise UsageError(f"{path}: not an index of optimizer files ({error}). Copy the folder again.") from None


class _Source(NamedTuple):
    """Where elements [start, stop) of the share of tensor-parallel rank `place` lie."""

    file: str
    byte: int
    place: int
    start: int
    stop: int


class PartFiles(TensorFiles):
    """Whole tensors of which each of `files` holds parts.

    Args:
        wholes: parameter -> the tensor it is a part of; for files whose headers do not say so.

    Raises:
        UsageError: as for `TensorFiles`; later also where no file holds an element that is asked for.
    """

    def __init__(self, folder: Path, files: List[str], wholes: Mapping[str, Whole]) -> None:
        self.folder, self.stem, self.files = folder, files[0].partition(".")[0], files
        self.metadata, self._entries = {}, {}
        self._wholes: Dict[str, Whole] = {}
        self._sources: Dict[str, List[_Source]] = {}
        self._last: Tuple[str, Any] = ("", None)
        for file in files:
            self._read_parts(file, wholes)
        cut = [
            source.place
            for name, whole in self._wholes.items()
            if whole.layout.axis is not None
            for source in self._sources[name]
        ]
        self._degree = 1 + max(cut, default=0)

    def _read_parts(self, file: str, wholes: Mapping[str, Whole]) -> None:
        header, data_start = read_header(self.folder / file)
        stated = self._stated(file, header.pop("__metadata__", None) or {})
        for name, info in header.items():
            if stated and name not in stated:
                raise self._damaged(file, f"it does not say what {name} is a part of")
            whole, place, start, stop = stated[name] if stated else _supposed(file, name, info["shape"], wholes)
            if stop - start != int(np.prod(info["shape"], dtype=np.int64)):
                raise self._damaged(file, f"{name} has not the size that its parts say")
            source = _Source(file, data_start + info["data_offsets"][0], place, start, stop)
            self._wholes.setdefault(name, whole)
            self._sources.setdefault(name, []).append(source)
            self._entries.setdefault(name, Entry(file, info["dtype"], whole.shape, 0))

    def _stated(self, file: str, metadata: Mapping[str, str]) -> Dict[str, Tuple[Whole, int, int, int]]:
        try:
            parts = parse_json(metadata.get("parts", "{}"))
            return {name: _unpacked(part) for name, part in parts.items()}
        except (ValueError, TypeError, AttributeError, LookupError) as error:
            raise self._damaged(file, str(error)) from None

    def _damaged(self, file: str, why: str) -> UsageError:
        return UsageError(f"{self.folder / file}: its header is not that of a rank's own part ({why}). Copy it again.")

    def _fill(self, name: str, target: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        begins, ends, files, offsets = self._table(name)
        first = np.searchsorted(begins, starts, "right") - 1
        last = np.searchsorted(begins, starts + lengths, "left")
        run = np.repeat(np.arange(len(starts)), last - first)
        entry = first[run] + np.arange(len(run)) - np.repeat(np.cumsum(last - first) - (last - first), last - first)
        start = np.maximum(starts[run], begins[entry])
        length = np.minimum(starts[run] + lengths[run], ends[entry]) - start
        if entry.min(initial=0) < 0 or length.min(initial=1) < 1 or length.sum() != target.size:
            raise UsageError(
                f"{self.folder}: the {self.stem} files of some ranks are missing: none holds all of {name}. Copy them."
            )
        places = np.cumsum(length) - length
        for number in np.unique(files[entry]):
            chosen = files[entry] == number
            self._scatter(
                self.files[number],
                target,
                places[chosen],
                length[chosen],
                offsets[entry[chosen]] + (start - begins[entry])[chosen] * target.itemsize,
            )

    def _scatter(self, file: str, target: np.ndarray, places: Any, lengths: Any, offsets: Any) -> None:
        found = np.empty(lengths.sum(), target.dtype)
        self._read(file, found, offsets, lengths * target.itemsize)
        at = 0
        for place, length in zip(places.tolist(), lengths.tolist()):
            target[place : place + length] = found[at : at + length]
            at += length

    def _table(self, name: str) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Begin, end (elements of the whole tensor), file and byte there of all runs; in order, each element once."""
        if self._last[0] != name:
            self._last = (name, self._runs(name))
        return self._last[1]

    def _runs(self, name: str) -> Tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        whole, itemsize, rows = self._wholes[name], np.dtype(NUMPY_TYPES[self.dtype(name)]).itemsize, []
        for source in self._sources[name]:
            if source.start < source.stop:
                box = whole.layout.box(whole.shape, source.place, self._degree)
                starts, lengths = runs_of(whole.shape, box, source.start, source.stop)
                bytes_ = source.byte + (np.cumsum(lengths) - lengths) * itemsize
                number = np.full_like(starts, self.files.index(source.file))
                rows.append(np.stack([starts, starts + lengths, number, bytes_]))
        begins, ends, files, offsets = table = np.concatenate(rows, 1)
        begins, ends, files, offsets = table[:, np.lexsort((-ends, begins))]
        covered = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])
        skipped = np.maximum(covered - begins, 0)
        kept = begins + skipped < ends
        return (begins + skipped)[kept], ends[kept], files[kept], (offsets + skipped * itemsize)[kept]


def _unpacked(part: List[Any]) -> Tuple[Whole, int, int, int]:
    *packed, place, start, stop = part
    return Whole.unpack(packed), int(place), int(start), int(stop)


def _supposed(file: str, name: str, shape: List[int], wholes: Mapping[str, Whole]) -> Tuple[Whole, int, int, int]:
    """What a tensor is whose file does not say it."""
    found = _PLACE.search(file)
    known = wholes.get(name.rpartition("/")[0] or name)
    size = int(np.prod(shape, dtype=np.int64))
    if known is None or name.endswith("_pow_acc_0"):
        known = Whole(name, tuple(shape), tuple(shape), "float32")
    return known, int(found.group(1)) if found else 0, 0, size
