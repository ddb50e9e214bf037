"""Who is to blame for a hang, from what the ranks report."""

from __future__ import annotations

from typing import Any, Sequence

import pytest

from paddlenlp.parallel.verdict import Judge, Report, _named

TIMEOUT, SILENCE = 100.0, 3.0


def judge(ranks: int = 4) -> Judge:
    return Judge(range(ranks), TIMEOUT, SILENCE, 0.0)


def report(rank: int, idle: float = 0.0, **more: Any) -> Report:
    return Report(
        rank, host=f"h{rank // 2}", process=1000 + rank, step=9, phase="forward-backward", idle=idle
    )._replace(**more)


def waiting(rank: int, idle: float, *others: int) -> Report:
    return report(rank, idle, waits="all_reduce of group dp [0, 1, 2, 3]", ranks=list(others))


def verdict(reports: Sequence[Report], now: float) -> str:
    court = judge(len(reports))
    for one in reports:
        court.hear(one, now)
    return court.verdict(now)


def test_the_one_that_neither_goes_on_nor_waits() -> None:
    reports = [waiting(0, 101, 2), waiting(1, 101, 2), report(2, 101, at="batches.py:70"), waiting(3, 101, 2)]
    text = verdict(reports, 200)
    head, *lines = text.splitlines()
    place = "phase forward-backward of step 9"
    assert head == f"hang: rank 2 in {place}: no progress for 101 s (hang_timeout 100)"
    assert lines == [
        f"  rank 2: {place}, host h1, process 1002: at batches.py:70",
        f"  ranks 0, 1: {place}, host h0: waits for rank 2 in all_reduce of group dp [0, 1, 2, 3]",
        f"  rank 3: {place}, host h1: waits for rank 2 in all_reduce of group dp [0, 1, 2, 3]",
    ]


def test_nobody_hangs_as_long_as_the_one_who_is_waited_for_goes_on() -> None:
    assert verdict([waiting(0, 5000, 2), waiting(1, 5000, 2), report(2, 5), waiting(3, 5000, 2)], 9000) == ""
    assert verdict([waiting(0, 5000, 2), waiting(1, 5000, 2), report(2, 99), waiting(3, 5000, 2)], 9000) == ""


def test_what_it_does_after_waiting_counts_from_then_on() -> None:
    """It has just been let go, and its report says how long it has waited."""
    court = judge(2)
    court.hear(report(0), 500)
    court.hear(waiting(1, 400, 0), 500)
    assert court.verdict(500) == ""
    court.hear(report(0), 501)
    court.hear(report(1, 401), 501)
    assert court.verdict(501) == ""
    court.hear(report(0), 602)
    court.hear(report(1, 502), 602)
    assert "rank 1 in" in court.verdict(602)


def test_a_rank_that_falls_silent_while_it_waits() -> None:
    court = judge(3)
    for rank in range(3):
        court.hear(waiting(rank, 50, (rank + 1) % 3), 100)
    for now in range(101, 201):
        court.hear(waiting(0, now - 50, 1), now)
        court.hear(waiting(2, now - 50, 1), now)
        text = court.verdict(now)
        assert bool(text) == (now - 50 >= TIMEOUT), now
        assert text.startswith("hang: rank 1 in phase forward-backward of step 9: no progress for" if text else "")
    court.hear(report(0), 201)
    assert court.verdict(202).startswith("hang: rank 1 in phase forward-backward of step 9: no progress for 152 s")
    assert "process 1001: no sign of life, it is stopped or can't be reached" in text


def test_its_memory_knows_better_where_a_silent_rank_is() -> None:
    court = judge(2)
    court.hear(report(1, last="all_gather 3 of group tp [0, 1]"), 1)
    court.hear(report(0, seen=[1, 10, "save"]), 2)
    court.hear(waiting(0, 100, 1), 102)
    assert court.verdict(102).startswith("hang: rank 1 in phase save of step 10")
    assert "its last collective was all_gather 3 of group tp [0, 1]" in court.verdict(102)
    court.hear(report(1, 101), 103)
    assert court.verdict(103).startswith("hang: rank 1 in phase forward-backward of step 9")


def test_a_rank_that_never_came() -> None:
    court = judge(2)
    court.hear(waiting(0, 100, 1), 100)
    assert "rank 1 in phase start-up: " in court.verdict(100) and "rank 1: never heard of" in court.verdict(100)


def test_a_rank_that_has_ended_is_not_missed() -> None:
    court = judge(2)
    court.hear(report(1, over=True), 1)
    court.hear(report(0), 500)
    assert court.verdict(500) == ""


def test_all_wait_for_each_other() -> None:
    text = verdict([waiting(0, 101, 1), waiting(1, 101, 0)], 200)
    assert text.startswith("hang: ranks 0, 1 in") and "they wait for each other, or for the network" in text
    assert verdict([waiting(0, 101, 1), waiting(1, 99, 0)], 200) == ""


@pytest.mark.parametrize("behind", [0, 2])
def test_on_devices_the_one_that_has_begun_fewer_collectives(behind: int) -> None:
    reports = [
        report(
            rank, 101, turns={"world": 5, f"tp{rank // 2}": 7 - (rank == behind), f"dp{rank % 2}": 3 - (rank == behind)}
        )
        for rank in range(4)
    ]
    text = verdict(reports, 200)
    assert text.startswith(f"hang: rank {behind} in")


def test_on_devices_a_pipeline_waits_for_its_stage_that_is_behind_and_not_ahead() -> None:
    turns = [{"0>1": 4}, {"0>1": 5, "1>2": 8}, {"1>2": 9}]
    assert verdict([report(rank, 101, turns=one) for rank, one in enumerate(turns)], 200).startswith("hang: rank 0 in")


def test_on_devices_where_none_is_behind_it_is_the_network() -> None:
    text = verdict([report(rank, 101, turns={"world": 5}) for rank in range(2)], 200)
    assert text.startswith("hang: ranks 0, 1 in") and "or for the network" in text


def test_on_devices_long_work_of_one_rank_is_no_hang() -> None:
    court = judge(2)
    for now in range(0, 1000, 10):
        court.hear(report(0, 0, turns={"world": 4}), now)
        court.hear(report(1, now, turns={"world": 5}), now)
        assert court.verdict(now) == ""


def test_many_ranks_are_told_in_few_lines() -> None:
    reports = [waiting(rank, 101, 4999) for rank in range(4999)] + [report(4999, 101)]
    reports = [one._replace(host="h") for one in reports]
    lines = verdict(reports, 200).splitlines()
    assert len(lines) == 3 and lines[2].startswith("  ranks 0 to 4998: ")
    various = [report(rank, 101, host=f"host{rank}") for rank in range(50)]
    assert len(verdict(various, 200).splitlines()) < 20


def test_names() -> None:
    assert _named([3]) == "rank 3"
    assert _named([1, 0]) == "ranks 0, 1"
    assert _named([0, 2, 3, 4, 9]) == "ranks 0, 2 to 4, 9"
