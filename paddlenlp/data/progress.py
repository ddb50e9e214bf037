"""How far a pass over text files is: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any, Optional

from tqdm import tqdm


class DocumentProgress:
    """Documents, text and tokens per second, and the time that remains.

    Args:
        interval: documents between two lines where standard error is not a terminal; None for no lines.
    """

    def __init__(self, interval: Optional[int] = 1000):
        self._interval = interval
        self._bar: Optional[tqdm] = None
        self.start(0)

    def start(self, total_bytes: int, read: int = 0, documents: int = 0, tokens: int = 0) -> None:
        """Begin to count.

        Args:
            total_bytes: size of the input files on disk.
            read: bytes of them that were read before; so were `documents` and `tokens`. Rates leave them out.
        """
        self._total, self._read, self._read_before = total_bytes, read, read
        self._documents, self._tokens, self._text = documents, tokens, 0
        self._before = (documents, tokens)
        self._next = documents - documents % self._interval + self._interval if self._interval else 0
        self._start = time.perf_counter()

    def __enter__(self) -> DocumentProgress:
        self._start = time.perf_counter()
        if sys.stderr.isatty():
            layout = "{desc} {percentage:3.0f}% |{bar}| {elapsed}<{remaining} {postfix}"
            self._bar = tqdm(total=self._total, initial=self._read, desc="Encoding", bar_format=layout)
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.close()

    def add(self, read: int, text_bytes: int, documents: int, tokens: int) -> None:
        """Note `read` more bytes on disk, which held `text_bytes` of records; documents and tokens are totals."""
        self._documents, self._tokens = documents, tokens
        self._text += text_bytes
        self._read += read
        if self._bar is not None:
            self._bar.set_postfix_str(self.rates(), refresh=False)
            self._bar.update(read)
        elif self._interval is not None and documents >= self._next:
            self._next = documents - documents % self._interval + self._interval
            print(f"Processed {documents} documents ({self.rates()}){self.left()}.", file=sys.stderr, flush=True)

    def rates(self) -> str:
        """Such as "120.0 docs/s, 1.50 MB/s, 400000 tokens/s", since the start."""
        seconds = max(time.perf_counter() - self._start, 1e-9)
        documents, tokens = self._documents - self._before[0], self._tokens - self._before[1]
        rates = (documents / seconds, self._text / 1e6 / seconds, tokens / seconds)
        return "{:.1f} docs/s, {:.2f} MB/s, {:.0f} tokens/s".format(*rates)

    def left(self) -> str:
        """Such as ", 45 % read, 0:12:30 remain" at the rate since the start; "" while nothing is known."""
        done = self._read - self._read_before
        if not done or not self._total:
            return ""
        seconds = (time.perf_counter() - self._start) / done * max(self._total - self._read, 0)
        hours, rest = divmod(round(seconds), 3600)
        return f", {100 * self._read / self._total:.0f} % read, {hours}:{rest // 60:02}:{rest % 60:02} remain"


__all__ = ["DocumentProgress"]
