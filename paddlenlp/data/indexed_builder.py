"""Writer of `{prefix}.bin` / `{prefix}.idx` (+ `.meta.json`): streams tokens, and shows the files only when whole."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, Dict, Optional, Sequence, Union

import numpy as np

from paddlenlp.data.indexed_dataset import HEADER, LAZY_MAGIC, MAGIC, VERSION
from paddlenlp.data.older_formats import LAZY_HEADER
from paddlenlp.data.partial_files import GrowingFile, PartsUnusable
from paddlenlp.data.sidecar import sample_sha256, sidecar_path, write_sidecar
from paddlenlp.data.token_store import dtype_code
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import fsync_file, fsync_folder, sha256_file
from paddlenlp.utils.processes import process_name


class MMapIndexedDatasetBuilder:
    """Writes one dataset in flat memory. Nothing appears under the final names before `finalize`, the .idx last.

    Args:
        out_prefix: path without extension; its folder must exist.
        dtype: stored type of the tokens (see `best_dtype`).
        impl: "mmap", or "lazy" for the older index.
        parts: an existing folder of the same file system for the files while they grow. It stays; by default they stand
            in one of the builder's own, which is removed.
        state: what `sync` returned in an earlier run with the same `parts`, to go on from there.

    Raises:
        PartsUnusable: `parts` does not hold what `state` says.

    Usage: `add_item(ids)` for each sequence, `end_document()` after the last one of each document, then `finalize()`.
    As a context manager it removes its own temporary files when the block raises.
    """

    def __init__(
        self,
        out_prefix: str,
        dtype: np.typing.DTypeLike,
        impl: str = "mmap",
        parts: Optional[Path] = None,
        state: Optional[Dict[str, Any]] = None,
    ) -> None:
        self.prefix = os.fspath(out_prefix)
        self.dtype = np.dtype(dtype).newbyteorder("<")
        self.impl = impl
        self._code = dtype_code(self.dtype)
        self._limits = np.iinfo(self.dtype) if self.dtype.kind in "iu" else None
        self._own = parts is None
        self._parts = parts or Path(f"{self.prefix}.by-{process_name()}.partial")
        if self._own:
            self._parts.mkdir(exist_ok=True)
        elif state:
            self._fetch_back(state["tokens"])
        old = state or {"tokens": None, "sizes": None, "documents": None, "max_token_id": -1}
        self._max_id = old["max_token_id"]
        self._tokens = GrowingFile(self._parts / "tokens", self.dtype, old["tokens"])
        self._sizes = GrowingFile(self._parts / "sizes", "<i4", old["sizes"])
        self._documents = GrowingFile(self._parts / "documents", "<i8", old["documents"])
        self.tokens, self.sequences = self._tokens.count, self._sizes.count
        self.documents, self._ended = self._documents.count, self.sequences

    def _fetch_back(self, tokens: Dict[str, Any]) -> None:
        """A run that was killed while it put its files under their names may have moved the tokens already."""
        data, there = Path(self.prefix + ".bin"), self._parts / "tokens"
        if there.exists() or not data.is_file() or data.stat().st_size != tokens["count"] * self.dtype.itemsize:
            return
        if sha256_file(data) == tokens["sha256"]:
            os.replace(data, there)

    def add_item(self, ids: Union[Sequence[int], np.ndarray]) -> None:
        """Append one sequence of token ids.

        Raises:
            UsageError: an id does not fit the stored type.
        """
        ids = np.asarray(ids)
        self._look_at(ids)
        self._tokens.append(ids)
        self._sizes.append_one(ids.size)
        self.tokens += ids.size
        self.sequences += 1

    def end_document(self) -> None:
        """Close the present document: it is the sequences added since the last call."""
        self._documents.append_one(self.sequences)
        self.documents += 1
        self._ended = self.sequences

    def add_documents(self, ids: np.ndarray, sizes: np.ndarray, sequences: np.ndarray) -> None:
        """Append whole documents at once.

        Args:
            ids: of all of them, one after another, `[sum of sizes]`.
            sizes: tokens of each sequence, `[sum of sequences]`.
            sequences: sequences of each document.

        Raises:
            UsageError: an id does not fit the stored type.
        """
        self._look_at(ids)
        self._tokens.append(ids)
        self._sizes.append(sizes)
        self._documents.append(self.sequences + np.cumsum(sequences, dtype=np.int64))
        self.tokens += len(ids)
        self.sequences += len(sizes)
        self.documents += len(sequences)
        self._ended = self.sequences

    def _look_at(self, ids: np.ndarray) -> None:
        if self._limits is None or not ids.size:
            return
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high > self._limits.max:
            raise UsageError(
                f"Token id {low if low < 0 else high} in document {self.documents} does not fit {self.dtype}: "
                f"expected 0 to {self._limits.max}. Make {self.prefix} with the type best_dtype(vocab_size) gives."
            )
        self._max_id = max(self._max_id, high)

    def sync(self) -> Dict[str, Any]:
        """Wait until everything is on the disk; the state from which a later builder can go on."""
        files = {"tokens": self._tokens, "sizes": self._sizes, "documents": self._documents}
        return {**{name: file.sync() for name, file in files.items()}, "max_token_id": self._max_id}

    def finalize(self, **facts: Any) -> None:
        """Write the index; put `facts` (tokenizer_sha256, vocab_size, command ...) and the counts into the sidecar.

        An older dataset of the same prefix loses its .idx first, so a crash never leaves a pair that does not fit.

        Raises:
            UsageError: there is nothing to write, or sequences follow the last `end_document`.
        """
        if not self.tokens or self._ended != self.sequences:
            problem = "no tokens were added" if not self.tokens else "the last document was not ended"
            self.abort()
            raise UsageError(f"{self.prefix}.bin/.idx was not written: {problem}.")
        self.sync()
        index_sha256 = self._write_index()
        self.close()
        for path in (self.prefix + ".idx", sidecar_path(self.prefix)):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        os.replace(self._tokens.path, self.prefix + ".bin")
        fsync_folder(os.path.dirname(self.prefix) or ".")
        write_sidecar(self.prefix, {**self._counted(), "idx_sha256": index_sha256, **facts})
        os.replace(self._parts / "index", self.prefix + ".idx")
        fsync_folder(os.path.dirname(self.prefix) or ".")
        if self._own:
            shutil.rmtree(self._parts, ignore_errors=True)

    def _counted(self) -> dict:
        return {
            "documents": self.documents,
            "sequences": self.sequences,
            "tokens": self.tokens,
            "max_token_id": self._max_id,
            "dtype": self.dtype.name,
            "bin_bytes": self.tokens * self.dtype.itemsize,
            "bin_sample_sha256": sample_sha256(self.prefix + ".bin"),
            "bin_sha256": self._tokens.sha256,
        }

    def _write_index(self) -> str:
        """Make the .idx file in the folder of parts; its SHA-256."""
        digest = hashlib.sha256()
        with open(self._parts / "index", "wb") as file:
            for piece in self._lazy_index() if self.impl == "lazy" else self._mmap_index():
                file.write(piece)
                digest.update(piece)
        fsync_file(self._parts / "index")
        return digest.hexdigest()

    def _mmap_index(self) -> Any:
        yield HEADER.pack(MAGIC, VERSION, self._code, self.sequences, self.documents + 1)
        yield from (block.data for block in self._sizes.blocks())
        yield from (starts[:-1].data for starts in self._starts(self.dtype.itemsize))
        yield from self._document_index()

    def _lazy_index(self) -> Any:
        """Its offsets count dimensions (one an item) and tokens, not bytes."""
        counts = (self._code, self.dtype.itemsize, self.sequences, self.sequences, self.documents + 1)
        yield LAZY_HEADER.pack(LAZY_MAGIC, VERSION, *counts)
        for low in range(0, self.sequences + 1, 1 << 17):
            yield np.arange(low, min(low + (1 << 17), self.sequences + 1), dtype="<i8").data
        yield np.zeros(1, "<i8").data
        yield from (starts[1:].data for starts in self._starts(1))
        yield from (block.data for block in self._sizes.blocks())
        yield from self._document_index()

    def _starts(self, unit: int) -> Any:
        """Where the sequences of each block of sizes start, and where the last of it ends, in units of a token."""
        position = 0
        for block in self._sizes.blocks():
            starts = np.empty(len(block) + 1, "<i8")
            starts[0] = position
            np.cumsum(block, dtype=np.int64, out=starts[1:])
            starts[1:] *= unit
            starts[1:] += position
            position = int(starts[-1])
            yield starts

    def _document_index(self) -> Any:
        yield np.zeros(1, "<i8").data
        yield from (block.data for block in self._documents.blocks())

    def close(self) -> None:
        """Close the files that grow; they stay."""
        for file in (self._tokens, self._sizes, self._documents):
            file.close()

    def abort(self) -> None:
        """Close, and remove the builder's own temporary files."""
        with contextlib.suppress(OSError):
            self.close()
        if self._own:
            shutil.rmtree(self._parts, ignore_errors=True)

    def __enter__(self) -> MMapIndexedDatasetBuilder:
        return self

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            self.abort()


def make_builder(out_prefix: str, dtype: np.typing.DTypeLike, impl: str = "mmap") -> MMapIndexedDatasetBuilder:
    """A builder for `{out_prefix}.bin/.idx`.

    Args:
        impl: "mmap", or "lazy" for readers that know only the older index.

    Raises:
        UsageError: another `impl`.
    """
    if impl not in ("mmap", "lazy"):
        raise UsageError(f"data_impl {impl!r} cannot be written. Expected mmap or lazy.")
    return MMapIndexedDatasetBuilder(out_prefix, dtype, impl)


__all__ = ["MMapIndexedDatasetBuilder", "PartsUnusable", "make_builder"]
