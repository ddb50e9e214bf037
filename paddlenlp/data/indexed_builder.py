"""Writer of `{prefix}.bin` / `{prefix}.idx` (+ `.meta.json`): streams tokens, and shows the files only when whole."""

from __future__ import annotations

import contextlib
import os
from array import array
from typing import Any, Sequence, Union

import numpy as np

from paddlenlp.data.indexed_dataset import HEADER, MAGIC, VERSION
from paddlenlp.data.sidecar import sample_sha256, sidecar_path, write_sidecar
from paddlenlp.data.token_store import dtype_code
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_path, fsync_folder

_BUFFER = 1 << 20


class MMapIndexedDatasetBuilder:
    """Writes one dataset. Nothing appears under the final names before `finalize`, which puts the .idx last.

    Args:
        out_prefix: path without extension; its folder must exist.
        dtype: stored type of the tokens (see `best_dtype`).

    Usage: `add_item(ids)` for each sequence, `end_document()` after the last one of each document, then `finalize()`.
    As a context manager it removes its temporary file when the block raises.
    """

    def __init__(self, out_prefix: str, dtype: np.typing.DTypeLike) -> None:
        self.prefix = os.fspath(out_prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self._code = dtype_code(self.dtype)
        self._limits = np.iinfo(self.dtype) if self.dtype.kind in "iu" else None
        self._sizes = array("i")
        self._documents = array("q", [0])
        self._max_id = -1
        self.tokens = 0
        self._partial = f"{self.prefix}.bin.{os.getpid()}.partial"
        self._file = open(self._partial, "wb", buffering=_BUFFER)  # noqa: SIM115

    @property
    def documents(self) -> int:
        """Documents ended so far."""
        return len(self._documents) - 1

    @property
    def sequences(self) -> int:
        """Sequences added so far."""
        return len(self._sizes)

    def add_item(self, ids: Union[Sequence[int], np.ndarray]) -> None:
        """Append one sequence of token ids.

        Raises:
            UsageError: an id does not fit the stored type.
        """
        ids = np.asarray(ids)
        if self._limits is not None and ids.size:
            low, high = int(ids.min()), int(ids.max())
            if low < 0 or high > self._limits.max:
                raise UsageError(
                    f"Token id {low if low < 0 else high} in document {self.documents} does not fit {self.dtype}: "
                    f"expected 0 to {self._limits.max}. Make {self.prefix} with the type best_dtype(vocab_size) gives."
                )
            self._max_id = max(self._max_id, high)
        self._file.write(np.ascontiguousarray(ids, self.dtype).data)
        self._sizes.append(ids.size)
        self.tokens += ids.size

    def end_document(self) -> None:
        """Close the present document: it is the sequences added since the last call."""
        self._documents.append(len(self._sizes))

    def finalize(self, **facts: Any) -> None:
        """Write the index; put `facts` (tokenizer_sha256, vocab_size, command ...) and the counts into the sidecar.

        An older dataset of the same prefix loses its .idx first, so a crash never leaves a pair that does not fit.

        Raises:
            UsageError: there is nothing to write, or sequences follow the last `end_document`.
        """
        if not self.tokens or self._documents[-1] != len(self._sizes):
            problem = "no tokens were added" if not self.tokens else "the last document was not ended"
            self.abort()
            raise UsageError(f"{self.prefix}.bin/.idx was not written: {problem}.")
        self._close()
        for path in (self.prefix + ".idx", sidecar_path(self.prefix)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        os.replace(self._partial, self.prefix + ".bin")
        fsync_folder(os.path.dirname(self.prefix) or ".")
        write_sidecar(self.prefix, {**self._counted(), **facts})
        self._write_index()

    def _counted(self) -> dict:
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "max_token_id": self._max_id,
            "dtype": self.dtype.name,
            "bin_bytes": self.tokens * self.dtype.itemsize,
            "bin_sample_sha256": sample_sha256(self.prefix + ".bin"),
        }

    def _write_index(self) -> None:
        sizes = np.frombuffer(self._sizes, np.int32)
        pointers = np.zeros(len(sizes), np.int64)
        np.cumsum(sizes[:-1], dtype=np.int64, out=pointers[1:])
        pointers *= self.dtype.itemsize
        doc_idx = np.frombuffer(self._documents, np.int64)
        with atomic_path(self.prefix + ".idx") as partial, open(partial, "wb") as file:
            file.write(HEADER.pack(MAGIC, VERSION, self._code, len(sizes), len(doc_idx)))
            for values, stored in ((sizes, "<i4"), (pointers, "<i8"), (doc_idx, "<i8")):
                file.write(values.astype(stored, copy=False).data)

    def _close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def abort(self) -> None:
        """Remove what was written so far."""
        self._file.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._partial)

    def __enter__(self) -> MMapIndexedDatasetBuilder:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            self.abort()


def make_builder(out_prefix: str, dtype: np.typing.DTypeLike, impl: str = "mmap") -> MMapIndexedDatasetBuilder:
    """A builder for `{out_prefix}.bin/.idx`.

    Raises:
        UsageError: `impl` is not "mmap" (the lazy format is read, never written).
    """
    if impl != "mmap":
        raise UsageError(f"data_impl {impl!r} cannot be written. Expected mmap: every reader understands it.")
    return MMapIndexedDatasetBuilder(out_prefix, dtype)
