"""From text files to a token dataset: read, encode in worker processes, write in the order read, in bounded memory.

A run that was killed goes on where it was: see `preprocess_parts`.
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import asdict, dataclass
from typing import Any, Dict, Iterable, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from paddlenlp.data.indexed_builder import MMapIndexedDatasetBuilder
from paddlenlp.data.partial_files import PartsUnusable
from paddlenlp.data.preprocess_encode import DocumentEncoder, EncodedChunk, encode_chunks
from paddlenlp.data.preprocess_parts import Parts, SeenDocuments, describe_run
from paddlenlp.data.progress import DocumentProgress
from paddlenlp.data.text_shares import Piece, share_of
from paddlenlp.data.text_sources import Place, Problem, find_text_files, read_chunks
from paddlenlp.utils.disk import write_failed
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

SHOWN_PROBLEMS = 20


@dataclass(frozen=True)
class PreprocessResult:
    """Counts of one dataset.

    Attributes:
        sequences, documents, tokens: written.
        skipped: records that could not be read.
        short, repeated: documents left out for their length, or because their text was there before.
        earlier_tokens: those of `tokens` that an earlier run had written.
    """

    sequences: int
    documents: int
    tokens: int
    skipped: int
    short: int = 0
    repeated: int = 0
    earlier_tokens: int = 0


@dataclass(frozen=True)
class RunOptions:
    """How a run goes.

    Attributes:
        workers: processes that encode; changes nothing in the files.
        max_documents: stop after so many documents.
        stop_on_error: stop at a record that cannot be read; otherwise it is reported, counted and left out.
        separator: the line between two documents of a .txt file.
        impl: format to write, "mmap" or "lazy".
        share: (number from 1 on, count): read only this share of the inputs, see `share_of`.
        sync_interval: seconds of work that a kill may cost.
    """

    workers: int = 1
    max_documents: Optional[int] = None
    stop_on_error: bool = False
    separator: str = ""
    impl: str = "mmap"
    share: Tuple[int, int] = (1, 1)
    sync_interval: float = 10.0


def make_dataset_from_text(
    inputs: Sequence[str],
    output_prefix: str,
    encoder: DocumentEncoder,
    options: RunOptions = RunOptions(),  # noqa: B008 (frozen)
    *,
    progress: Optional[DocumentProgress] = None,
    command: Optional[List[str]] = None,
) -> PreprocessResult:
    """Write `{output_prefix}.bin`, `.idx` and `.meta.json` from text files; they appear together when all is done.

    A run that ends early, killed or not, leaves `{output_prefix}.parts/`; one with the same inputs, tokenizer and
    options goes on from there and writes the bytes that a single run would have written.

    Args:
        inputs: files, folders or patterns (see `find_text_files`).
        encoder: makes tokens of records.
        progress: shows how far it is.
        command: goes into the sidecar.

    Raises:
        UsageError: missing inputs, nowhere to write, an unreadable record with `stop_on_error`, or no document at all.
    """
    files, passed_over = find_text_files(inputs)
    if passed_over:
        logger.info(f"not text, passed over: {', '.join(path.name for path in passed_over)}")
    pieces = share_of(files, *options.share, options.separator)
    decisive = {name: getattr(options, name) for name in ("max_documents", "separator", "impl")}
    parts = Parts(output_prefix, describe_run(pieces, encoder, **decisive))
    with contextlib.ExitStack() as held:
        with _writing(output_prefix):
            held.enter_context(parts)
        run = _begin(parts, output_prefix, encoder, options)
        try:
            run.write_all(pieces, encoder, progress or DocumentProgress(interval=None))
            run.check(inputs)
        except BaseException:
            run.leave()
            raise
        tokenizer = encoder.tokenizer
        facts = {"tokenizer_sha256": tokenizer.fingerprint(), "vocab_size": len(tokenizer), "command": command or []}
        return run.finish(**facts)


@contextlib.contextmanager
def _writing(prefix: str) -> Iterator[None]:
    """What the disk refuses is told as what it is."""
    try:
        yield
    except OSError as error:
        raise write_failed(f"{prefix}.bin", error) from None


def _begin(parts: Parts, prefix: str, encoder: DocumentEncoder, options: RunOptions) -> _Run:
    with _writing(prefix):
        try:
            return _Run(parts, prefix, encoder, options)
        except (PartsUnusable, KeyError, TypeError) as error:
            parts.begin_anew(f"{error}" if isinstance(error, PartsUnusable) else "journal.json is not of this version")
            return _Run(parts, prefix, encoder, options)


@dataclass
class _Counts:
    """Records and documents left out, and bytes of the inputs read."""

    skipped: int = 0
    short: int = 0
    repeated: int = 0
    read: int = 0


class _Run:
    """Writes encoded chunks, keeps the counts, and notes now and then how far it is."""

    def __init__(self, parts: Parts, prefix: str, encoder: DocumentEncoder, options: RunOptions):
        nothing: Dict[str, Any] = {"builder": None, "seen": None, "place": {}, "counts": {}}
        state = nothing if parts.state is None else parts.state
        self.options = options
        self.place = Place(**state["place"])
        self.counts = _Counts(**state["counts"])
        self.builder = MMapIndexedDatasetBuilder(prefix, encoder.dtype, options.impl, parts.folder, state["builder"])
        self.seen = SeenDocuments(parts.folder, state["seen"]) if encoder.options.remove_duplicates else None
        self.earlier_tokens = self.builder.tokens
        self._parts = parts
        self._first: Optional[Problem] = None
        self._synced = time.monotonic()
        self._whole = True
        if parts.state:
            logger.info(f"{parts.folder}: going on after {self.builder.documents:,} documents of an earlier run")

    def write_all(self, pieces: Sequence[Piece], encoder: DocumentEncoder, progress: DocumentProgress) -> None:
        """Encode and write what follows `place`."""
        total = sum(piece.size for piece in pieces)
        chunks = read_chunks(pieces, self.options.separator, encoder.options.json_key, self.place)
        encoded = encode_chunks(chunks, encoder, self.options.workers)
        progress.start(total, self.counts.read, self.builder.documents, self.builder.tokens)
        try:
            with progress:
                self._write_chunks(encoded, progress)
        finally:
            encoded.close()  # type: ignore[attr-defined]

    def _write_chunks(self, encoded: Iterable[EncodedChunk], progress: DocumentProgress) -> None:
        for chunk in encoded:
            self._whole = False  # until all of the chunk is written; what is saved must not hold a part of one
            for problem in chunk.problems:
                self._report(problem)
            with _writing(self.builder.prefix):
                self._write(chunk)
                self._whole = True
                if time.monotonic() - self._synced >= self.options.sync_interval:
                    self._sync()
            progress.add(chunk.read, chunk.text_bytes, self.builder.documents, self.builder.tokens)
            if self.builder.documents == self.options.max_documents:
                return

    def _write(self, chunk: EncodedChunk) -> None:
        """Add the documents of a chunk that are new, up to `max_documents`."""
        kept = np.ones(len(chunk.sequences), bool)
        if self.seen is not None:
            kept[:] = self.seen.new(chunk.digests)
            self.counts.repeated += int(np.sum(~kept))
        if self.options.max_documents is not None:
            kept[np.flatnonzero(kept)[self.options.max_documents - self.builder.documents :]] = False
        ids, sizes, sequences = chunk.ids, chunk.sizes, chunk.sequences
        if not kept.all():
            by_sequence = np.repeat(kept, sequences)
            ids = ids[np.repeat(by_sequence, sizes)]
            sizes, sequences = sizes[by_sequence], sequences[kept]
        self.builder.add_documents(ids, sizes, sequences)
        self.counts.short += chunk.short
        self.counts.read += chunk.read
        self.place = chunk.place

    def _sync(self) -> None:
        state = {
            "documents": self.builder.documents,
            "place": asdict(self.place),
            "counts": asdict(self.counts),
            "seen": self.seen.sync() if self.seen is not None else None,
            "builder": self.builder.sync(),
        }
        self._parts.save(state)
        self._synced = time.monotonic()

    def _report(self, problem: Problem) -> None:
        if self.options.stop_on_error:
            raise UsageError(f"{problem}. The dataset was not written; --on_error skip leaves such records out")
        self.counts.skipped += 1
        self._first = self._first or problem
        if self.counts.skipped <= SHOWN_PROBLEMS:
            more = "; further ones are only counted" if self.counts.skipped == SHOWN_PROBLEMS else ""
            logger.warning(f"{problem}; left out{more}")

    def check(self, inputs: Sequence[str]) -> None:
        """Refuse to write a dataset without documents."""
        if self.builder.tokens:
            return
        why = f": all {self.counts.skipped} records were bad, the first {self._first}" if self.counts.skipped else ""
        why += f"; {self.counts.short} are shorter than min_doc_length" if self.counts.short else ""
        share = "" if self.options.share == (1, 1) else f" (share {self.options.share[0]} of {self.options.share[1]})"
        raise UsageError(f"no documents with text in {', '.join(inputs)}{share}{why}")

    def leave(self) -> None:
        """End early: what is written stays for a later run, unless there is nothing."""
        if self._whole and self.builder.documents:
            with contextlib.suppress(OSError):
                self._sync()
        self._close()
        if self.builder.documents and self._parts.begun:
            logger.warning(f"not finished; run the same command again to go on ({self._parts.folder})")
        else:
            self._parts.remove()

    def _close(self) -> None:
        with contextlib.suppress(OSError):
            self.builder.close()
            if self.seen is not None:
                self.seen.close()

    def finish(self, **facts: Any) -> PreprocessResult:
        """Put the dataset under its names."""
        with _writing(self.builder.prefix):
            self._sync()
            self.builder.finalize(**facts)
        self._close()
        self._parts.remove()
        made, counts = self.builder, self.counts
        return PreprocessResult(
            made.sequences,
            made.documents,
            made.tokens,
            counts.skipped,
            counts.short,
            counts.repeated,
            self.earlier_tokens,
        )


__all__ = ["DocumentEncoder", "PreprocessResult", "RunOptions", "encode_chunks", "make_dataset_from_text"]
