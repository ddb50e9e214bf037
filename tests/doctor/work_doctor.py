"""What ranks do in test_doctor_ranks.py."""

from __future__ import annotations

import time

from paddlenlp.doctor import FAIL, WARN, Finding, Visit, examine_job
from paddlenlp.parallel.socket_group import SocketGroup


def visit(broken):
    """The findings of the job on this rank. `broken`: what is wrong with the last rank: "", "sum", "clock"."""
    seen = Visit(device="cpu")
    last = seen.process_index == seen.world_size - 1
    if last and broken == "sum":
        right = SocketGroup._all_reduce
        SocketGroup._all_reduce = lambda self, x, op: right(self, (x + 1) if x.dtype.name == "INT64" else x, op)
    if last and broken == "clock":
        now = time.time
        time.time = lambda: now() + 20
    own = Finding("products", FAIL, "wrong", "Repair it.") if last else Finding("memory", WARN, "little", "Buy some.")
    return [list(finding) for finding in examine_job(seen, [own])]
