"""Jobs under Paddle's launcher: how they fail, and two hosts."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any, Dict, List, Tuple

import pytest
from launcher import Hosts, Launch, on_two_hosts, until

from paddlenlp.parallel import failure, signals
from paddlenlp.parallel.failure import RankFailed, reason_of, run_as_rank
from paddlenlp.utils.errors import UsageError

SCRIPT = Path(__file__).resolve().parent / "work_launch.py"


@pytest.fixture
def launch(tmp_path: Path, started: List[Launch]) -> Any:
    """launch(mode, processes): a job of `work_launch.py`."""

    def start(mode: str, processes: int) -> Launch:
        folder = tmp_path / "job"
        started.append(Launch(folder, [str(SCRIPT), mode, str(folder)], ["--nproc_per_node", str(processes)]))
        return started[-1]

    return start


@pytest.fixture
def launch_on_both(tmp_path: Path, started: List[Launch], hosts: Hosts) -> Any:
    """launch_on_both(mode): a job of four ranks on two hosts, in folders of their own."""

    def start(mode: str) -> List[Launch]:
        for host, (options, prefix) in enumerate(on_two_hosts(hosts, 2)):
            folder = tmp_path / f"host{host}"
            started.append(Launch(folder, [str(SCRIPT), mode, str(folder)], options, prefix))
        return started

    return start


ENDED = "rank 1 has ended"
RAISED = "rank 1 has failed (ValueError: broken on purpose)"


@pytest.mark.parametrize(("mode", "how"), [("raises", RAISED), ("dies", ENDED), ("crashes", ENDED)])
def test_one_rank_fails_and_all_end(launch: Any, mode: str, how: str) -> None:
    job = launch(mode, 3)
    assert job.end() != 0
    job.wait_until_gone()
    assert "Container rank 1 status failed" in job.output  # the culprit, not one that ended because of it
    for rank in (0, 2):
        lines = [line for line in job.log(rank).splitlines() if "ccache" not in line and "warnings.warn" not in line]
        if mode != "raises" and how not in job.log(rank):
            assert "Termination signal" in job.log(rank)  # the launcher happened to look at once, and was quicker
        else:
            assert len(lines) == 1 and how in lines[0] and lines[0].endswith("; this rank ends too"), lines
    if mode == "raises":
        assert job.output.count("ValueError: broken on purpose\n[rank 1 of 3 on") == 1
        assert job.log(1).count("Traceback") == 1


def test_ranks_end_with_the_launcher(launch: Any) -> None:
    job = launch("waits", 2)
    until(lambda: (job.folder / "met").exists())
    assert set(job.processes().values()) == {0, 1}
    job.launcher.kill()
    until(lambda: not job.processes())


def test_two_hosts(launch_on_both: Any) -> None:
    jobs = launch_on_both("collectives")
    assert [job.end() for job in jobs] == [0, 0], "\n".join(job.output[-3000:] for job in jobs)
    for rank in range(4):
        folder = jobs[rank // 2].folder
        place, found = json.loads((folder / f"{rank}.json").read_text())
        assert place == str(folder)
        for ranks, *results in found:
            assert results == expected(ranks, ranks.index(rank)), (rank, ranks)


def expected(ranks: List[int], place: int) -> List[List[float]]:
    """What `work_launch.collectives` finds on the rank at `place`."""
    total = sum(ranks) + len(ranks)
    before = ranks[place - 1] + 1.0
    return [
        [total] * 3,
        [total],
        ranks,
        [total] * 2,
        [rank + 1.0 for rank in ranks for _ in range(2)],
        [ranks[-1]],
        [before] * 2 * len(ranks),
    ]


def test_a_rank_that_fails_before_any_group_exists_ends_both_hosts(launch_on_both: Any) -> None:
    jobs = launch_on_both("raises_early")
    assert all(job.end() != 0 for job in jobs)
    for job in jobs:
        job.wait_until_gone()
    assert "ValueError: broken on purpose" in jobs[0].log(1)
    for rank in range(2):
        assert RAISED in jobs[1].log(rank)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "1")
    monkeypatch.setattr(failure, "_ending", failure._Ending())
    monkeypatch.setattr(failure, "_stop_on_request", lambda yes: None)
    monkeypatch.setattr(failure, "YIELD", 0.0)


OUTCOMES: Dict[str, Tuple[Any, int, str]] = {
    "usage": (UsageError("--flag is wrong"), 2, "error: --flag is wrong\n"),
    "other": (KeyError("x"), 1, "error: KeyError: 'x'\n"),
    "interrupt": (KeyboardInterrupt(), 130, "interrupted\n"),
    "signal": (signals.Stopped(signal.SIGTERM, "interrupted"), 143, "interrupted\n"),
    "agreed": (signals.Agreed(signal.SIGUSR1, "stopped at step 3"), 138, "stopped at step 3\n"),
    "another rank": (RankFailed(3, "has ended", "while rank 0 waits"), 1, "error: rank 3 has ended while rank 0 waits"),
}


@pytest.mark.parametrize("name", OUTCOMES)
def test_exit_codes_and_messages(alone: None, capsys: pytest.CaptureFixture, name: str) -> None:
    error, code, message = OUTCOMES[name]

    def main() -> None:
        raise error

    assert run_as_rank(main) == code
    text = capsys.readouterr().err
    assert message in text and ("Traceback" in text) == (name == "other")


def test_an_interrupt_that_came_through_paddle_is_one(
    alone: None, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised within the backward pass of a PyLayer, KeyboardInterrupt comes out as a ValueError."""
    monkeypatch.setattr(signals, "_interrupted_by", int(signal.SIGINT))

    def main() -> None:
        raise ValueError("Get backward function failed")

    assert run_as_rank(main) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_failure_after_a_signal_was_noted_is_told(
    alone: None, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signals, "_heard", {int(signal.SIGTERM): 0.0})

    def main() -> None:
        raise ValueError("broken")

    assert run_as_rank(main) == 1
    assert "error: ValueError: broken" in capsys.readouterr().err


def test_success(alone: None, capsys: pytest.CaptureFixture) -> None:
    assert run_as_rank(lambda: None) == 0
    assert capsys.readouterr().err == ""


def test_the_same_mistake_is_left_to_the_rank_that_has_told_it(alone: None, capsys: pytest.CaptureFixture) -> None:
    failure._ending.armed = True
    failure._ending._failure = RankFailed(0, "has failed (--flag is wrong, so)")

    def main() -> None:
        raise UsageError("--flag is wrong,\n  so")

    assert run_as_rank(main) == 2
    assert capsys.readouterr().err == "error: as rank 0 says\n"


def test_what_follows_from_another_s_failure_is_not_told(alone: None, capsys: pytest.CaptureFixture) -> None:
    def main() -> None:
        failure._ending.say("error: rank 1 has ended; this rank ends too")
        raise KeyError("x")

    assert run_as_rank(main) == 1
    assert capsys.readouterr().err == "error: rank 1 has ended; this rank ends too\n"


def test_reasons_are_one_short_line() -> None:
    assert reason_of(KeyboardInterrupt()) == "interrupted"
    assert reason_of(UsageError("a\n  b")) == "a b"
    assert reason_of(UsageError()) == "UsageError: "
    assert len(reason_of(ValueError("long " * 1000))) == 500
