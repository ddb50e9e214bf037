"""Names of processes, put into the names of what they have not finished writing; and whether they still run."""

from __future__ import annotations

import os
import re
import socket
from typing import Optional

PATTERN = r"(?P<host>.+)-(?P<pid>\d+)"
"""Regular expression of `process_name`."""


def process_name() -> str:
    """This process among all that may see the same files: "HOST-PID"."""
    return f"{socket.gethostname()}-{os.getpid()}"


def has_ended(name: str) -> Optional[bool]:
    """Whether the process of this `process_name` has ended.

    None: that cannot be known from here. It ran on another host; or its number is in use, by itself or by a later one.
    """
    found = re.fullmatch(PATTERN, name)
    if not found or found["host"] != socket.gethostname():
        return None
    try:
        os.kill(int(found["pid"]), 0)
    except ProcessLookupError:
        return True
    except (PermissionError, OverflowError):
        pass
    return None
