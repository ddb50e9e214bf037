"""What ranks do in test_doctor_ranks.py."""

from __future__ import annotations

import time

from paddlenlp.doctor import FAIL, WARN, Finding, Visit, examine_job, job
from paddlenlp.parallel.socket_group import SocketGroup

right = SocketGroup._all_reduce


def wrong(self, x, op):
    return right(self, (x + 1) if x.dtype.name == "INT64" else x, op)


def visits(broken):
    """What is broken -> the findings of the job on this rank."""
    return {what: visit(what) for what in broken}


def visit(broken):
    """The findings of the job on this rank. `broken`: what is wrong with the last rank: "", "sum", "clock".

    The clocks stand still, so that a busy machine does not set them apart.
    """
    seen = Visit(device="cpu", patience=600.0)
    last = seen.process_index == seen.world_size - 1
    SocketGroup._all_reduce = wrong if last and broken == "sum" else right
    job.LARGE = 1 << 16
    time.time = lambda: 1e9 + 20 * (last and broken == "clock")
    own = Finding("products", FAIL, "wrong", "Repair it.") if last else Finding("memory", WARN, "little", "Buy some.")
    return [list(finding) for finding in examine_job(seen, [own])]
