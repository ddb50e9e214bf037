"""From text files to a token dataset: read, encode in worker processes, write in the order read, in bounded memory."""

from __future__ import annotations

import multiprocessing
import os
from collections import deque
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Deque, Iterable, Iterator, List, Optional, Sequence

import numpy as np

from paddlenlp.data.indexed_builder import MMapIndexedDatasetBuilder
from paddlenlp.data.preprocess_text import Text, TextOptions, TextReader
from paddlenlp.data.progress import DocumentProgress
from paddlenlp.data.text_sources import Chunk, Problem, find_text_files, read_chunks
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

SHOWN_PROBLEMS = 20
_HELD_PER_WORKER = 3  # chunks under way: one being encoded, one waiting, one done


@dataclass
class EncodedChunk:
    """The tokens of a chunk.

    Attributes:
        ids: of all its documents, one after another.
        sizes: tokens of each sequence.
        sequences: sequences of each document.
        text_bytes: size of the records.
        read: bytes of the file on disk.
        problems: records that could not be read.
    """

    ids: np.ndarray
    sizes: List[int]
    sequences: List[int]
    text_bytes: int
    read: int
    problems: List[Problem] = field(default_factory=list)


class DocumentEncoder:
    """Encodes chunks; can be sent to other processes.

    Args:
        tokenizer: a `PretrainedTokenizer`.
        options: how records become texts.
        append_eos: put the end token after the last sequence of each document.

    Raises:
        UsageError: options that cannot be met.
    """

    def __init__(self, tokenizer: Any, options: TextOptions, append_eos: bool = False):
        options.check()
        if append_eos and tokenizer.eos_token_id is None:
            raise UsageError(
                f"{tokenizer.name_or_path}: append_eos is asked for, but this tokenizer has no eos_token. "
                "Name one in its tokenizer_config.json, or leave append_eos out"
            )
        self.tokenizer = tokenizer
        self.dtype = dtype_for(len(tokenizer))
        self._eos = [tokenizer.eos_token_id] if append_eos else []
        self._reader = TextReader(options)

    def __call__(self, chunk: Chunk) -> EncodedChunk:
        documents, problems = self._reader.documents(chunk)
        encoded = iter(self._encode([text for texts in documents for text in texts]))
        ids: List[int] = []
        sizes: List[int] = []
        sequences: List[int] = []
        for texts in documents:
            found = [tokens for tokens in (next(encoded) for _ in texts) if tokens]
            if found:
                found[-1] = found[-1] + self._eos
                sequences.append(len(found))
                for tokens in found:
                    sizes.append(len(tokens))
                    ids += tokens
        return EncodedChunk(np.array(ids, self.dtype), sizes, sequences, chunk.size, chunk.read, problems)

    def _encode(self, texts: Sequence[Text]) -> List[List[int]]:
        if texts and not isinstance(texts[0], str):
            return [self.tokenizer.encode_words(words) for words in texts]
        return self.tokenizer.encode_batch(texts)


def dtype_for(size: int) -> np.dtype:
    """uint16 where every id of a vocabulary of `size` tokens is below 65535, else int32: the reference's rule."""
    return np.dtype(np.uint16 if size < 65535 else np.int32)


def encode_chunks(chunks: Iterable[Chunk], encoder: DocumentEncoder, workers: int) -> Iterator[EncodedChunk]:
    """`encoder` of every chunk, in order. One worker is this process itself, on the threads of the tokenizer's library.

    Raises:
        UsageError: a worker process died.
    """
    if workers <= 1:
        yield from map(encoder, chunks)
        return
    context = multiprocessing.get_context("spawn")  # forking is not safe once a library has threads
    pool = ProcessPoolExecutor(workers, context, _start_worker, (encoder,))
    under_way: Deque[Future] = deque()
    try:
        for chunk in chunks:
            under_way.append(pool.submit(_encode, chunk))
            if len(under_way) >= _HELD_PER_WORKER * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    except BrokenProcessPool:
        raise UsageError("a worker process ended suddenly, most often for want of memory; try fewer workers") from None
    finally:
        pool.shutdown(cancel_futures=True)


_worker_encoder: Optional[DocumentEncoder] = None


def _start_worker(encoder: DocumentEncoder) -> None:
    global _worker_encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker_encoder = encoder


def _encode(chunk: Chunk) -> EncodedChunk:
    assert _worker_encoder is not None
    return _worker_encoder(chunk)


@dataclass(frozen=True)
class PreprocessResult:
    """Counts of one run: what was written and how many records were not readable."""

    sequences: int
    documents: int
    tokens: int
    skipped: int


def make_dataset_from_text(
    inputs: Sequence[str],
    output_prefix: str,
    encoder: DocumentEncoder,
    *,
    workers: int = 1,
    max_documents: Optional[int] = None,
    stop_on_error: bool = False,
    separator: str = "",
    progress: Optional[DocumentProgress] = None,
    command: Optional[List[str]] = None,
) -> PreprocessResult:
    """Write `{output_prefix}.bin`, `.idx` and `.meta.json` from text files; they appear together when all is done.

    Args:
        inputs: files, folders or patterns (see `find_text_files`).
        encoder: makes tokens of records.
        workers: processes that encode.
        max_documents: stop after so many documents.
        stop_on_error: stop at a record that cannot be read; otherwise it is reported, counted and left out.
        separator: the line between two documents of a .txt file.
        progress: shows how far it is.
        command: goes into the sidecar.

    Raises:
        UsageError: missing inputs, nowhere to write, an unreadable record with `stop_on_error`, or no document at all.
    """
    files, passed_over = find_text_files(inputs)
    if passed_over:
        logger.info(f"not text, passed over: {', '.join(path.name for path in passed_over)}")
    progress = progress or DocumentProgress(sum(path.stat().st_size for path in files), interval=None)
    run = _Run(_builder(output_prefix, encoder.dtype), progress, max_documents, stop_on_error)
    with run.builder, progress:
        encoded = encode_chunks(read_chunks(files, separator), encoder, workers)
        try:
            run.write_all(encoded)
        finally:
            encoded.close()  # type: ignore[attr-defined]
        run.check(inputs)
        tokenizer = encoder.tokenizer
        facts = {"tokenizer_sha256": tokenizer.fingerprint(), "vocab_size": len(tokenizer), "command": command or []}
        run.builder.finalize(**facts)
    return PreprocessResult(run.builder.sequences, run.builder.documents, run.builder.tokens, run.skipped)


def _builder(prefix: str, dtype: np.dtype) -> MMapIndexedDatasetBuilder:
    try:
        Path(prefix).parent.mkdir(parents=True, exist_ok=True)
        return MMapIndexedDatasetBuilder(prefix, dtype)
    except OSError as error:
        raise UsageError(f"{prefix}.bin cannot be written: {error.strerror}: {error.filename}") from None


class _Run:
    """Writes encoded chunks and keeps the counts."""

    def __init__(
        self,
        builder: MMapIndexedDatasetBuilder,
        progress: DocumentProgress,
        max_documents: Optional[int],
        stop_on_error: bool,
    ):
        self.builder = builder
        self.skipped = 0
        self._first: Optional[Problem] = None
        self._progress = progress
        self._max = max_documents
        self._stop = stop_on_error

    def write_all(self, encoded: Iterable[EncodedChunk]) -> None:
        for chunk in encoded:
            for problem in chunk.problems:
                self._report(problem)
            done = self._write(chunk)
            self._progress.add(chunk.read, chunk.text_bytes, self.builder.documents, self.builder.tokens)
            if done:
                return

    def _write(self, chunk: EncodedChunk) -> bool:
        """Add the documents of a chunk; whether `max_documents` is reached."""
        sizes = iter(chunk.sizes)
        start = 0
        for sequences in chunk.sequences:
            if self.builder.documents == self._max:
                break
            for _ in range(sequences):
                end = start + next(sizes)
                self.builder.add_item(chunk.ids[start:end])
                start = end
            self.builder.end_document()
        return self.builder.documents == self._max

    def _report(self, problem: Problem) -> None:
        if self._stop:
            raise UsageError(f"{problem}. Nothing was written; --on_error skip leaves such records out")
        self.skipped += 1
        self._first = self._first or problem
        if self.skipped <= SHOWN_PROBLEMS:
            more = "; further ones are only counted" if self.skipped == SHOWN_PROBLEMS else ""
            logger.warning(f"{problem}; left out{more}")

    def check(self, inputs: Sequence[str]) -> None:
        if not self.builder.tokens:
            why = f": all {self.skipped} records were bad, the first {self._first}" if self.skipped else ""
            raise UsageError(f"no documents with text in {', '.join(inputs)}{why}")


__all__ = ["DocumentEncoder", "PreprocessResult", "dtype_for", "encode_chunks", "make_dataset_from_text"]
