"""What the ranks of a job find out together: the same on all of them."""

from __future__ import annotations

import pytest
from ranks import run_ranks

from paddlenlp.doctor import FAIL, OK, WARN, Finding

WORLD = 3
BROKEN = ["", "sum", "clock"]


@pytest.fixture(scope="module")
def visits():
    """What is broken -> the findings of each rank's own process."""
    told = run_ranks(WORLD, "tests/doctor/work_doctor.py:visits", BROKEN)
    return {broken: [[Finding(*values) for values in rank[broken]] for rank in told] for broken in BROKEN}


def examined(lists):
    """The job's findings, as a list and by check, of the ranks' own ones."""
    names = [{finding.check: finding for finding in findings} for findings in lists]
    for one in names[1:]:
        shared = {check for check in one if not one[check].place}
        assert {check: one[check] for check in shared} == {check: names[0][check] for check in shared}
    return lists[0], names[0]


def test_a_job_in_order(visits):
    listed, found = examined(visits[""])
    assert [finding.state for finding in listed if not finding.place] == [OK] * 4
    assert found["all-reduce"].found == "right in float32, bfloat16, float16, int64 over 3 ranks"
    assert "GB/s" in found["exchange speed"].found and "3 have met, on 1 host" in found["ranks"].found
    others = [finding for finding in listed if finding.place]
    assert [(finding.check, finding.state) for finding in others] == [("products", FAIL)]  # memory is the host's
    assert others[0].place.startswith("rank 2 on ")


@pytest.mark.parametrize(("broken", "check", "state"), [("sum", "all-reduce", FAIL), ("clock", "clocks", WARN)])
def test_a_rank_that_is_out_of_order(visits, broken, check, state):
    _, found = examined(visits[broken])
    assert found[check].state == state, found
    assert "int64" in found[check].found or "20.0 s ahead" in found[check].found
