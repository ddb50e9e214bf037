"""How far a pass over text files is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Optional

from tqdm import tqdm


class DocumentProgress:
    """Documents, text and tokens per second.

    Args:
        total_bytes: size of the input files on disk.
        interval: documents between two lines where standard error is not a terminal; None for no lines.
    """

    def __init__(self, total_bytes: int, interval: Optional[int] = 1000):
        self._total = total_bytes
        self._interval = interval
        self._next = interval or 0
        self._documents = self._tokens = self._text = 0
        self._start = time.perf_counter()
        self._bar: Optional[tqdm] = None

    def __enter__(self) -> DocumentProgress:
        self._start = time.perf_counter()
        if sys.stderr.isatty():
            layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}"
            self._bar = tqdm(total=self._total, desc="Encoding", bar_format=layout)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, read: int, text_bytes: int, documents: int, tokens: int) -> None:
        """Note `read` more bytes on disk, which held `text_bytes` of records; documents and tokens are totals."""
        self._documents, self._tokens = documents, tokens
        self._text += text_bytes
        if self._bar is not None:
            self._bar.set_postfix_str(self.rates(), refresh=False)
            self._bar.update(read)
        elif self._interval is not None and documents >= self._next:
            self._next = documents - documents % self._interval + self._interval
            print(f"Processed {documents} documents ({self.rates()}).", file=sys.stderr)

    def rates(self) -> str:
        """Such as "120.0 docs/s, 1.50 MB/s, 400000 tokens/s", since the start."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        rates = (self._documents / seconds, self._text / 1e6 / seconds, self._tokens / seconds)
        return "{:.1f} docs/s, {:.2f} MB/s, {:.0f} tokens/s".format(*rates)


__all__ = ["DocumentProgress"]
