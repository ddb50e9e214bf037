"""Attempts in a child process: what they return, raise, and do to their process."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from paddlenlp.nn import trial
from paddlenlp.nn.trial import Attempt, outcomes

LONG = 600.0
"""Seconds after which something hangs, on a machine however busy."""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="children are forked on Linux only")


def fail():
    raise ValueError("two\n  lines")


def test_outcomes_come_in_order():
    assert outcomes([Attempt(lambda: ""), Attempt(lambda: "reason"), Attempt(fail)]) == [
        "", "reason", "it raises ValueError: two lines",
    ]  # fmt: skip


def test_nothing_to_try_starts_nothing(monkeypatch):
    monkeypatch.setattr(os, "fork", fail)
    assert outcomes([]) == []


def test_what_ends_the_child_does_not_end_the_others():
    die = Attempt(lambda: os.kill(os.getpid(), signal.SIGSEGV))
    leave = Attempt(lambda: os._exit(7))
    assert outcomes([Attempt(lambda: ""), die, Attempt(lambda: "after"), leave, leave, Attempt(lambda: "")]) == [
        "",
        "it ended a trial process with SIGSEGV",
        "after",
        "it ended a trial process with exit code 7",
        "it ended a trial process with exit code 7",
        "",
    ]


def test_an_attempt_whose_need_has_failed_is_not_made():
    die = Attempt(lambda: os.kill(os.getpid(), signal.SIGSEGV))
    found = outcomes([die, Attempt(lambda: os._exit(7), needs=0), Attempt(lambda: "", needs=1), Attempt(lambda: "")])
    assert found == ["it ended a trial process with SIGSEGV"] * 3 + [""]


def test_what_hangs_is_given_up(monkeypatch):
    """Its time is up as soon as it says that it hangs."""
    (hangs, hung), times = os.pipe(), []

    def wait(pipes, _, __, seconds):
        times.append(seconds)
        ready = select.select([*pipes, hangs], [], [], LONG)[0]
        if not set(pipes) & set(ready):
            os.read(hangs, 1)
        return [pipe for pipe in pipes if pipe in ready], [], []

    monkeypatch.setattr(trial, "select", SimpleNamespace(select=wait))
    hanging = Attempt(lambda: os.write(hung, b"x") and time.sleep(LONG) or "")
    found = outcomes([Attempt(lambda: ""), hanging, Attempt(lambda: "")])
    assert found == ["", "it takes more than 20 s", ""]
    assert all(0 <= seconds <= 20 for seconds in times)


def test_the_child_changes_nothing_here_and_prints_nothing(capfd):
    seen = []
    assert outcomes([Attempt(lambda: seen.append(1) or print("loud") or os.write(2, b"loud") and "")]) == [""]
    assert seen == [] and capfd.readouterr() == ("", "")
    assert outcomes([Attempt(lambda: seen.append(1) or "")], apart=False) == [""]
    assert seen == [1]


def test_no_child_is_left_and_no_file_stays_open():
    before = len(os.listdir("/proc/self/fd")), children()
    outcomes([Attempt(lambda: os._exit(1)), Attempt(lambda: "")])
    assert (len(os.listdir("/proc/self/fd")), children()) == before


def children():
    """The processes that this one has started, those of other tests among them."""
    return {one for task in Path("/proc/self/task").iterdir() for one in (task / "children").read_text().split()}
