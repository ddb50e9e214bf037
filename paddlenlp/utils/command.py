"""How a command-line tool ends."""

from __future__ import annotations

import sys
from typing import Callable, Optional

from paddlenlp.utils.errors import UsageError

WRONG_INPUT, INTERRUPTED = 2, 130
"""Exit codes: of what the user can do something about, and of Ctrl-C, as shells have it."""


def run_tool(action: Callable[[], Optional[int]], name: str = "error") -> int:
    """Carry out a tool; its exit code.

    Args:
        action: returns the exit code, None for 0. What it raises that the user can do something about (UsageError,
            OSError) becomes one message, without a traceback.
        name: what that message begins with.
    """
    try:
        return action() or 0
    except (UsageError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return WRONG_INPUT
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return INTERRUPTED
