"""The tensor files of a checkpoint, of which every rank writes some: planned once, written as often as wanted."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Callable, Collection, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from paddlenlp.checkpoint.space import TensorGroups, checkpoint_bytes
from paddlenlp.parallel.catalogue import Catalogue, Part, Whole
from paddlenlp.parallel.dealing import Orders, PlannedFile, orders_of, plan_files
from paddlenlp.parallel.group import Group, SoloGroup
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.parallel.mesh import Mesh
from paddlenlp.parallel.objects import for_each
from paddlenlp.parallel.rounds import Rounds
from paddlenlp.utils.files import atomic_write_json, fsync_file, sha256_file
from paddlenlp.utils.tensor_writer import LazyTensor, TensorStream, WrittenFile, type_code


class Written(NamedTuple):
    """What this rank has written: its files, and the error that kept it from writing them all."""

    files: List[WrittenFile]
    error: Optional[OSError]


class Shards:
    """Tensors of a checkpoint that the ranks of a job hold in parts. Made by all of them together; rank 0 plans.

    Args:
        groups: stem ("model", "optimizer", "master_weights") -> what this rank holds. A stem without tensors is left
            out of the checkpoint.
        order: of the names in the index.
        mesh: how the ranks stand.
        group: of all ranks; what `control_group` gives. Nothing else may use it meanwhile.
        apart: stems of which each rank's parts are saved as they are.

    Attributes:
        parts: what this rank holds, by number.
        bytes: that a checkpoint takes on the disk, at most; the same on all ranks.
    """

    def __init__(
        self,
        groups: Mapping[str, Sequence[Part]],
        order: Callable[[str], Any],
        mesh: Mesh,
        group: Group,
        apart: Collection[str] = (),
    ) -> None:
        self.group = group
        catalogue = Catalogue(groups, order, group)
        self.parts: List[Part] = catalogue.own
        self._files = plan_files(catalogue, mesh, apart) if group.rank == 0 else []
        self._names = {stem: [whole.name for whole in catalogue.of(stem)] for stem, _ in catalogue.wholes}
        needed = checkpoint_bytes({file.name: _lazies(file.tensors) for file in self._files})
        orders = orders_of(self._files, group.size) if group.rank == 0 else []
        own, self.bytes = for_each([(each, needed) for each in orders], group)
        self._orders = own if isinstance(own, Orders) else Orders.unpack(own)

    @classmethod
    def of(cls, tensors: TensorGroups) -> Shards:
        """Those of tensors, arrays and LazyTensors that this process alone holds."""
        groups = {
            stem: [_part(name, value) for name, value in group.items()] for stem, group in tensors.items() if group
        }
        places = {name: place for group in tensors.values() for place, name in enumerate(group)}
        return cls(groups, places.__getitem__, Mesh(), SoloGroup())

    def write(self, folder: Path, parts: Optional[Sequence[Part]] = None) -> Written:
        """Write this rank's files into `folder`, together with the other ranks.

        Errors of the disk are returned, not raised: the others count on what this rank sends.

        Args:
            parts: to write in place of the live ones.
        """
        sink = _Sink(folder, self._orders.files)
        try:
            Rounds(self._orders, self.parts if parts is None else parts, self.group).run(sink.take)
            return sink.finish()
        finally:
            sink.close()

    def write_indexes(self, folder: Path) -> None:
        """Write the index of every stem. For rank 0, which knows all files."""
        apart = [file for file in self._files if file.parts]
        for stem, names in self._names.items():
            files = [file for file in self._files if file.stem == stem]
            if stem == "master_weights" and apart:
                continue  # the index of the optimizer names their files too
            index: Dict[str, Any] = {"metadata": {"total_size": sum(file.size for file in apart or files)}}
            if stem == "optimizer":
                index["master_weights"] = "master_weights" in self._names
            if stem == "optimizer" and apart:
                index["files"] = [file.name for file in apart]
            else:
                places = {name: file.name for file in files for name, _, _ in file.tensors}
                index["weight_map"] = {name: places[name] for name in names}
            atomic_write_json(folder / f"{stem}.safetensors.index.json", index, indent=4)


def check_written(folder: Path, files: Sequence[WrittenFile]) -> None:
    """Bring files to the disk and read them back.

    Raises:
        OSError: that fails, or the disk holds something else than was written.
    """
    for file in files:
        path = folder / file.name
        fsync_file(path)
        beat.progress()
        _forget_cached(path)
        if path.stat().st_size != file.size or sha256_file(path) != file.sha256:
            raise OSError(None, "what is read back is not what was written", str(path))


def _forget_cached(path: Path) -> None:
    """Have the next read of a synced file come from the disk, where the system knows how."""
    if hasattr(os, "posix_fadvise"):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


class _Sink:
    """Writes the files of one rank one after the other; after an error it takes the rest and does nothing with it."""

    def __init__(self, folder: Path, files: Sequence[PlannedFile]) -> None:
        self._folder, self._files = folder, files
        self._written: List[WrittenFile] = []
        self._stream: Optional[TensorStream] = None
        self._error: Optional[OSError] = None

    def take(self, number: int, data: memoryview) -> None:
        """The next bytes of file `number`."""
        self._noting_errors(lambda: self._write(number, data))

    def finish(self) -> Written:
        """Close the last file, and make those that have no tensors."""
        self._noting_errors(lambda: self._reach(len(self._files)))
        return Written(self._written, self._error)

    def close(self) -> None:
        """Let go of the file that is open."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _noting_errors(self, action: Callable[[], None]) -> None:
        if self._error is None:
            try:
                action()
            except OSError as error:
                self._error = error
                self.close()

    def _write(self, number: int, data: memoryview) -> None:
        self._reach(number)
        if self._stream is None:
            self._stream = self._open(number)
        try:
            self._stream.write(data)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._folder / self._files[number].name)) from error

    def _reach(self, number: int) -> None:
        """Complete the files before `number`."""
        while len(self._written) < number:
            current = len(self._written)
            stream = self._stream or self._open(current)
            assert stream.size == stream.whole_size, self._files[current].name
            self._written.append(WrittenFile(self._files[current].name, stream.size, stream.sha256))
            stream.close()
            self._stream = None

    def _open(self, number: int) -> TensorStream:
        file = self._files[number]
        metadata = {"format": "np", **({"parts": json.dumps(file.parts)} if file.parts else {})}
        return TensorStream(self._folder / file.name, _lazies(file.tensors), metadata, checksum=True)


def _lazies(tensors: Sequence[Tuple[str, str, Tuple[int, ...]]]) -> Dict[str, LazyTensor]:
    return {name: LazyTensor(tuple(shape), dtype, lambda: None) for name, dtype, shape in tensors}


def _part(name: str, value: Any) -> Part:
    """A tensor that is all there, as the one part of itself."""
    shape = tuple(value.shape)
    dtype = "bfloat16" if type_code(value) == "BF16" else str(value.dtype).rpartition(".")[2]
    size = 1
    for length in shape:
        size *= length
    return Part(
        Whole(name, shape, shape, dtype), 0, size, value.make if isinstance(value, LazyTensor) else lambda: value
    )
