"""The error a user can do something about."""

from __future__ import annotations


class UsageError(ValueError):
    """Wrong input: the message says what is wrong, where, what was found and expected, and what to do.

    Command-line programs print it without a traceback and exit with code 2.
    """
