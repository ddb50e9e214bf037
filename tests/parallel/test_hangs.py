"""Training runs that hang end and say where; nothing that a killed one leaves keeps the next from starting."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import pytest
from launcher import until
from ranks import run_ranks

WORKER = Path(__file__).with_name("work_hangs.py")
TIMEOUT = 8.0
CASES: Dict[str, Tuple[int, Dict[str, Any]]] = {
    "optimizer": (2, {"rank": 1, "stops": "on_optimizer_begin"}),
    "evaluate": (2, {"rank": 0, "blocks": {"valid": 8}}),
    "alone": (1, {"rank": 0, "blocks": {"train": 9}}),
}


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """logs(case): rank -> exit and log, of the ranks that ended by themselves. All cases run at once: they wait."""
    with ThreadPoolExecutor(len(CASES)) as pool:
        runs: Dict[str, Future] = {}
        for name, (world, given) in CASES.items():
            payload = {**given, "timeout": TIMEOUT, "folder": str(tmp_path_factory.mktemp(name))}
            runs[name] = pool.submit(run_ranks, world, "tests/parallel/work_hangs.py:run", payload, timeout=400)

        def find(name: str) -> Dict[int, Tuple[str, str]]:
            with pytest.raises(AssertionError) as failed:
                runs[name].result()
            parts = re.split(r"--- rank (\d) of \d: (exit -?\d+)\n", str(failed.value))
            return {int(rank): (how, log) for rank, how, log in zip(parts[1::3], parts[2::3], parts[3::3])}

        yield find


def test_a_rank_that_is_stopped_before_the_update(logs: Any) -> None:
    found = logs("optimizer")
    assert {rank: how for rank, (how, _) in found.items()} == {0: "exit 7"}
    assert re.search(
        r"error: hang: rank 1 in phase \S+ of step 3: no progress for \d+ s \(hang_timeout 8\)", found[0][1]
    )
    assert re.search(r"  rank 0: phase \S+ of step 3, host .*: waits for rank 1 in all_", found[0][1])


def test_a_rank_whose_evaluation_data_does_not_come(logs: Any) -> None:
    found = logs("evaluate")
    assert {rank: how for rank, (how, _) in found.items()} == {0: "exit 7", 1: "exit 7"}
    for _, log in found.values():
        assert "error: hang: rank 0 in phase evaluate of step 3" in log
        assert "  rank 1: phase evaluate of step 3" in log


def test_a_single_process_whose_data_does_not_come(logs: Any) -> None:
    how, log = logs("alone")[0]
    assert how == "exit 7"
    assert "error: hang: rank 0 in phase read-data of step 5" in log and "in __getitem__" in log


def start(folder: Path) -> subprocess.Popen:
    with (folder / "log").open("w") as log:
        command = [sys.executable, str(WORKER), str(folder)]
        return subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "OMP_NUM_THREADS": "1"})


def step(folder: Path) -> int:
    with suppress(OSError, ValueError):
        return int((folder / "step").read_text())
    return 0


def children(process: int) -> List[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == process:
                found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/dev/shm").exists(), reason="no shared memory in files")
def test_after_kill_nothing_is_left_in_memory_and_the_run_goes_on(tmp_path: Path) -> None:
    running = start(tmp_path)
    until(lambda: step(tmp_path) >= 3 or running.poll() is not None)
    family = [running.pid, *children(running.pid)]
    assert len(family) == 3, (tmp_path / "log").read_text()
    for process in family:
        os.kill(process, signal.SIGKILL)
    running.wait()
    left = [path.name for path in Path("/dev/shm").iterdir()]
    assert not [name for name in left if name.startswith(tuple(f"paddle_{process}_" for process in family))]
    again = start(tmp_path)
    assert again.wait(400) == 0, (tmp_path / "log").read_text()
    assert step(tmp_path) == 12 and "Continuing" in (tmp_path / "log").read_text()
