"""Runs a function on several processes at once, as the launcher would start them."""

from __future__ import annotations

import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

ROOT = Path(__file__).resolve().parent.parent.parent
TIMEOUT = 600


def run_ranks(world: int, target: str, payload: Any = None, timeout: float = TIMEOUT, **env: str) -> List[Any]:
    """What `target` ("package.module:function", or "path/to/file.py:function") returns on each of `world` ranks.

    It is called with `payload`; both this and the result go through JSON. Processes have one compute thread.

    Raises:
        AssertionError: a rank failed; with the end of its output.
    """
    with tempfile.TemporaryDirectory() as folder:
        started = [_start(rank, world, target, payload, Path(folder), env) for rank in range(world)]
        try:
            codes = [process.wait(timeout) for process in started]
        finally:
            for process in started:
                process.kill()
        logs = [Path(folder, f"{rank}.log").read_text(errors="replace") for rank in range(world)]
        failed = [rank for rank, code in enumerate(codes) if code]
        assert not failed, "\n".join(f"--- rank {r} of {world}: exit {codes[r]}\n{logs[r][-3000:]}" for r in failed[:3])
        return [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in range(world)]


def _start(rank: int, world: int, target: str, payload: Any, folder: Path, more: Dict[str, str]) -> subprocess.Popen:
    if rank == 0:
        (folder / "payload.json").write_text(json.dumps(payload))
        (folder / "endpoints").write_text(",".join(f"127.0.0.1:{port}" for port in _free_ports(world)))
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


def _free_ports(count: int) -> List[int]:
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


def _load(target: str) -> Any:
    place, _, name = target.rpartition(":")
    if not place.endswith(".py"):
        return getattr(importlib.import_module(place), name)
    path = ROOT / place
    sys.path.insert(0, str(path.parent))
    return getattr(importlib.import_module(path.stem), name)


def main() -> None:
    """One rank: `python ranks.py TARGET FOLDER`."""
    target, folder = sys.argv[1], Path(sys.argv[2])
    result = _load(target)(json.loads((folder / "payload.json").read_text()))
    rank, world = int(os.environ["PADDLE_TRAINER_ID"]), int(os.environ["PADDLE_TRAINERS_NUM"])
    (folder / f"{rank}.json").write_text(json.dumps(result))
    if world > 1:  # the others may still be waiting for what this one has sent
        from paddlenlp.parallel.socket_group import SocketGroup

        SocketGroup("end", range(world), rank).barrier()


if __name__ == "__main__":
    main()
