"""Runs a function on several processes at once, as the launcher would start them."""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any, Dict, List

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT = 1800
"""Seconds for all of it on a busy machine. One rank waits 600 for another, and then says which is missing."""

MOMENT = 2.0
"""Seconds from the first failure to the end of the other ranks."""

LOWEST, HIGHEST, BLOCK = 12000, 32000, 400
"""Ports of the tests: below 32768, from which on Linux takes those of connections."""

_places = count()
_held: List[socket.socket] = []


def run_ranks(world: int, target: str, payload: Any = None, timeout: float = TIMEOUT, **env: str) -> List[Any]:
    """What `target` ("package.module:function", or "path/to/file.py:function") returns on each of `world` ranks.

    It is called with `payload`; both this and the result go through JSON. Processes have one compute thread.

    Raises:
        AssertionError: a rank failed; with the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        env.setdefault("PADDLENLP_JOB_KEY", secrets.token_hex(16))
        started = [_start(rank, world, target, payload, Path(folder), env) for rank in range(world)]
        try:
            failed = _wait(started, timeout)
        finally:
            for process in started:
                process.kill()
                process.wait()
        logs = [Path(folder, f"{rank}.log").read_text(errors="replace") for rank in range(world)]
        assert not failed, "\n".join(
            f"--- rank {rank} of {world}: {how}\n{logs[rank][-3000:]}" for rank, how in list(failed.items())[:3]
        )
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(world)]


def _wait(started: List[subprocess.Popen], timeout: float) -> Dict[int, str]:
    """Rank -> how it failed, in the order of failing. Once one has failed, the others have a moment to do so too."""
    failed: Dict[int, str] = {}
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        for rank, process in enumerate(started):
            if process.poll() and rank not in failed:
                end = end if failed else min(end, time.monotonic() + MOMENT)
                failed[rank] = f"exit {process.returncode}"
        if all(process.poll() is not None for process in started):
            return failed
        time.sleep(0.02)
    running = [rank for rank, process in enumerate(started) if process.poll() is None]
    return failed or {rank: f"still running after {timeout:g} s" for rank in running}


def _start(rank: int, world: int, target: str, payload: Any, folder: Path, more: Dict[str, str]) -> subprocess.Popen:
    if rank == 0:
        (folder / "payload.json").write_text(json.dumps(payload))
        (folder / "endpoints").write_text(",".join(f"127.0.0.1:{port}" for port in free_ports(world)))
    endpoints = (folder / "endpoints").read_text()
    env = {
        **os.environ,
        "PADDLE_TRAINER_ID": str(rank),
        "PADDLE_TRAINERS_NUM": str(world),
        "PADDLE_LOCAL_RANK": str(rank),
        "PADDLE_LOCAL_SIZE": str(world),
        "PADDLE_RANK_IN_NODE": str(rank),
        "PADDLE_TRAINER_ENDPOINTS": endpoints,
        "PADDLE_CURRENT_ENDPOINT": endpoints.split(",")[rank],
        "PADDLE_DISTRI_BACKEND": "gloo",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
        **more,
    }
    with open(folder / f"{rank}.log", "w") as log:
        command = [sys.executable, str(Path(__file__)), target, str(folder)]
        return subprocess.Popen(command, env=env, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT)


def free_ports(number: int) -> List[int]:
    """Ports that nothing else takes before the ranks listen there, seconds later.

    They are below those that the kernel gives to connections, and of a block of this process's own, one after another.
    """
    ports: List[int] = []
    while len(ports) < number:
        port = _block().start + next(_places) % (BLOCK - 1)
        with suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            ports.append(port)
    return ports


@cache
def _block() -> range:
    """A block of ports that no other process has: its last one is listened at until this process ends."""
    for start in range(LOWEST, HIGHEST, BLOCK):
        with suppress(OSError):
            _held.append(socket.create_server(("127.0.0.1", start + BLOCK - 1)))
            return range(start, start + BLOCK)
    raise OSError(f"all blocks of ports between {LOWEST} and {HIGHEST} are taken")


def _load(target: str) -> Any:
    place, _, name = target.rpartition(":")
    if not place.endswith(".py"):
        return getattr(importlib.import_module(place), name)
    path = ROOT / place
    sys.path.insert(0, str(path.parent))
    return getattr(importlib.import_module(path.stem), name)


def main() -> None:
    """One rank: `python ranks.py TARGET FOLDER`."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: it ends with the tests
    target, folder = sys.argv[1], Path(sys.argv[2])
    result = _load(target)(json.loads((folder / "payload.json").read_text()))
    rank, world = int(os.environ["PADDLE_TRAINER_ID"]), int(os.environ["PADDLE_TRAINERS_NUM"])
    (folder / f"{rank}.json").write_text(json.dumps(result))
    if world > 1:  # the others may still be waiting for what this one has sent
        from paddlenlp.parallel.socket_group import SocketGroup

        SocketGroup("end", range(world), rank).barrier()


if __name__ == "__main__":
    main()
