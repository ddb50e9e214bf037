"""From chunks of raw records to token ids, in this process or in others, in the order of the chunks."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Deque, Iterable, Iterator, List, Optional, Sequence

import numpy as np

from paddlenlp.data.preprocess_text import Text, TextOptions, TextReader
from paddlenlp.data.text_sources import Chunk, Place, Problem
from paddlenlp.data.token_store import best_dtype
from paddlenlp.data.workers import worker_pool
from paddlenlp.utils.errors import UsageError

DIGEST_BYTES = 16
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
        place: where the next chunk starts.
        problems: records that could not be read.
        short: documents left out because they are too short.
        digests: DIGEST_BYTES for each document that tell its text from others; empty where they are not asked for.
    """

    ids: np.ndarray
    sizes: np.ndarray
    sequences: np.ndarray
    text_bytes: int
    read: int
    place: Place
    problems: List[Problem] = field(default_factory=list)
    short: int = 0
    digests: bytes = b""


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
        self.options = options
        self.dtype = best_dtype(len(tokenizer))
        self.append_eos = append_eos
        self._eos = [tokenizer.eos_token_id] if append_eos else []
        self._reader = TextReader(options)

    def __call__(self, chunk: Chunk) -> EncodedChunk:
        documents, problems, short = self._reader.documents(chunk)
        encoded = iter(self._encode([text for texts in documents for text in texts]))
        ids = array("H" if self.dtype.itemsize == 2 else "i")
        sizes, sequences, digests = array("i"), array("i"), []
        for texts in documents:
            found = [tokens for tokens in (next(encoded) for _ in texts) if tokens]
            if not found:
                continue
            found[-1] = found[-1] + self._eos
            sequences.append(len(found))
            for tokens in found:
                sizes.append(len(tokens))
                ids.fromlist(tokens)
            if self.options.remove_duplicates:
                digests.append(_digest(texts))
        return EncodedChunk(
            np.frombuffer(ids, self.dtype),
            np.frombuffer(sizes, np.int32),
            np.frombuffer(sequences, np.int32),
            chunk.size,
            chunk.read,
            chunk.place,
            problems,
            short,
            b"".join(digests),
        )

    def _encode(self, texts: Sequence[Text]) -> List[List[int]]:
        if texts and not isinstance(texts[0], str):
            return [self.tokenizer.encode_words(words) for words in texts]
        return self.tokenizer.encode_batch(texts)


def _digest(texts: Sequence[Text]) -> bytes:
    joined = "\0".join(text if isinstance(text, str) else "\1".join(text) for text in texts)
    return hashlib.blake2b(joined.encode(), digest_size=DIGEST_BYTES).digest()


def encode_chunks(chunks: Iterable[Chunk], encoder: DocumentEncoder, workers: int) -> Iterator[EncodedChunk]:
    """`encoder` of every chunk, in order. One worker is this process itself, on the threads of the tokenizer's library.

    Raises:
        UsageError: a worker process died.
    """
    if workers <= 1:
        yield from map(encoder, chunks)
        return
    with worker_pool(workers, _start_worker, encoder) as pool:
        under_way: Deque[Future] = deque()
        for chunk in chunks:
            under_way.append(pool.submit(_encode, chunk))
            if len(under_way) >= _HELD_PER_WORKER * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()


_worker_encoder: Optional[DocumentEncoder] = None


def _start_worker(encoder: DocumentEncoder) -> None:
    global _worker_encoder
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    _worker_encoder = encoder


def _encode(chunk: Chunk) -> EncodedChunk:
    assert _worker_encoder is not None
    return _worker_encoder(chunk)


__all__ = ["DIGEST_BYTES", "DocumentEncoder", "EncodedChunk", "encode_chunks"]
