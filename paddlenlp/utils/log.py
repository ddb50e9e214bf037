"""The logger of the toolkit: name "PaddleNLP", standard error, the reference's line format."""

from __future__ import annotations

import contextlib
import logging
import sys
from typing import Any

COLORS = {"DEBUG": 35, "INFO": 32, "WARNING": 33, "ERROR": 31, "CRITICAL": 31}


class _Formatter(logging.Formatter):
    """`[2024-01-01 00:00:00,000] [    INFO] - message`, the prefix in colour on a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        prefix = f"[{self.formatTime(record)}] [{record.levelname:>8}]"
        if sys.stderr.isatty():
            prefix = f"\033[{COLORS.get(record.levelname, 0)}m{prefix}\033[0m"
        text = f"{prefix} - {record.getMessage()}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


class _StandardError(logging.StreamHandler):
    """Writes to the present `sys.stderr`, so that redirection and progress bars are honoured."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self):  # type: ignore[override]
        return sys.stderr


def _make() -> logging.Logger:
    made = logging.getLogger("PaddleNLP")
    if not made.handlers:
        handler = _StandardError()
        handler.setFormatter(_Formatter())
        made.addHandler(handler)
        made.setLevel(logging.INFO)
        made.propagate = False
    return made


logger = _make()


class _Forgiving:
    """A text stream that loses what it cannot write."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush, if that is possible."""
        with contextlib.suppress(OSError):
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def forgive_output() -> None:
    """From here on nothing fails because standard output or error, redirected to a full disk perhaps, takes no more."""
    sys.stdout, sys.stderr = _Forgiving(sys.stdout), _Forgiving(sys.stderr)  # type: ignore[assignment]
