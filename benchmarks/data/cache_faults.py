"""The index cache under many processes at once, and under builders that are killed.

    python benchmarks/data/cache_faults.py [--together 20] [--processes 8] [--kills 30] [--out result.json]

Together: so many processes ask for one index at the same moment. One may build; all must get the same bytes.
Kills: one of four processes builds and is killed with SIGKILL, at moments spread over all of its work; another takes
over, the rest wait. In every second round they take the builder for one of another host, where only signs of life
tell. Reported: seconds from the kill to the first build that another has begun, and to the end of all.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 120
"""Seconds after which a process hangs."""

_WORKER = """
import json, os, sys, time
sys.path.insert(0, {root!r})
import numpy as np
from paddlenlp.data import build_lock, index_cache
from paddlenlp.data.index_cache import IndexCache
folder, name, builder, host, pause = sys.argv[1], sys.argv[2], sys.argv[3] == "1", sys.argv[4], float(sys.argv[5])
if host:
    own = build_lock.host_identity
    build_lock.host_identity = lambda: host + own()
def build():
    with open(os.path.join(folder, "builds"), "a") as file:
        file.write(name + " " + repr(time.time()) + "\\n")
    for _ in range(10):
        time.sleep(pause)
    return {{"a": np.arange(300_000), "b": np.ones((500_000, 2), np.int32)}}
cache = IndexCache("what", ("a", "b"), [os.path.join(folder, "cache")], lambda arrays: None, {{"seed": 1}})
open(os.path.join(folder, "ready-" + name), "w").close()
while not os.path.exists(os.path.join(folder, "go")):
    time.sleep(0.002)
arrays = cache.load_or_build(build, builder)
assert arrays["a"][-1] == 299_999 and arrays["b"].sum() == 1_000_000
"""


def start(folder: Path, name: str, builder: bool, host: str, pause: float) -> subprocess.Popen:
    """One process; it waits for the file "go"."""
    log = open(folder / f"log-{name}", "w")  # noqa: SIM115
    words = [str(folder), name, str(int(builder)), host, str(pause)]
    return subprocess.Popen(
        [sys.executable, "-c", _WORKER.format(root=str(ROOT)), *words],
        stdout=log,
        stderr=log,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def release(folder: Path, processes: Dict[str, subprocess.Popen]) -> None:
    """Let all begin at the same moment."""
    end = time.monotonic() + LIMIT
    while not all((folder / f"ready-{name}").exists() for name in processes):
        assert time.monotonic() < end, "a process does not start"
        time.sleep(0.005)
    (folder / "go").touch()


def finish(folder: Path, processes: Dict[str, subprocess.Popen]) -> Dict[str, str]:
    """How each that did not end well ended."""
    failed = {}
    for name, process in processes.items():
        try:
            code = process.wait(LIMIT)
            if code:
                failed[name] = f"exit {code}: " + (folder / f"log-{name}").read_text()[-500:]
        except subprocess.TimeoutExpired:
            failed[name] = "hangs"
            process.kill()
            process.wait()
    return failed


def builds(folder: Path) -> List[List[str]]:
    """Who has begun to build, and when."""
    path = folder / "builds"
    return [line.split() for line in path.read_text().splitlines()] if path.exists() else []


def digest(folder: Path) -> str:
    """Of the files of the cache that are the same everywhere."""
    whole = hashlib.sha256()
    for path in sorted((folder / "cache").iterdir()):
        if path.suffix in (".dsc", ".json", ".npy"):
            whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()


def together(count: int, pause: float = 0.01) -> Dict[str, Any]:
    """`count` processes at once, all of them builders."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = {str(number): start(folder, str(number), True, "", pause) for number in range(count)}
        release(folder, processes)
        failed = finish(folder, processes)
        return {"builds": len(builds(folder)), "failed": failed, "digest": digest(folder)}


def killed(share: float, elsewhere: bool, work: float = 0.5, waiters: int = 3) -> Dict[str, Any]:
    """A builder that is killed after the `share` (0 to 1) of about `work` seconds; the others wait for it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        processes = {"0": start(folder, "0", True, "", work / 10)}
        for number in range(1, waiters + 1):
            processes[str(number)] = start(folder, str(number), False, "elsewhere " * elsewhere, work / 10)
        release(folder, processes)
        time.sleep(share * work)
        victim = processes.pop("0")
        victim.send_signal(signal.SIGKILL)
        at, began = time.time(), time.monotonic()
        victim.wait()
        failed = finish(folder, processes)
        seconds = time.monotonic() - began
        later = [float(when) - at for who, when in builds(folder) if who != "0"]
        return {
            "elsewhere": elsewhere,
            "killed_after": share * work,
            "builder_had_begun": any(who == "0" for who, _ in builds(folder)),
            "builders_after": len(later),
            "noticed_seconds": min(later) if later else None,
            "seconds": seconds,
            "failed": failed,
            "digest": digest(folder),
            "left": sorted(path.name for path in (folder / "cache").iterdir() if "lock" in path.name),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--together", type=int, default=20)
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    rounds = [together(options.processes) for _ in range(options.together)]
    print(f"{len(rounds)} x {options.processes} at once: builds {[found['builds'] for found in rounds]}", flush=True)
    kills = []
    for number in range(options.kills):
        kills.append(killed(1.3 * (number + 0.5) / options.kills, bool(number % 2)))
        shown = {name: value for name, value in kills[-1].items() if name != "digest"}
        print(json.dumps(shown), flush=True)
    digests = {found["digest"] for found in rounds + kills}
    noticed = [found["noticed_seconds"] for found in kills if found["noticed_seconds"] is not None]
    result = {
        "together": {
            "rounds": len(rounds),
            "processes": options.processes,
            "one_build": sum(found["builds"] == 1 for found in rounds),
            "failed": [found["failed"] for found in rounds if found["failed"]],
        },
        "kills": {
            "count": len(kills),
            "after_the_build": sum(found["noticed_seconds"] is None for found in kills),
            "one_took_over": sum(found["builders_after"] == 1 for found in kills),
            "longest_on_another_host_seconds": max(
                (found["seconds"] for found in kills if found["elsewhere"]), default=None
            ),
            "several_took_over": sum(found["builders_after"] > 1 for found in kills),
            "longest_until_noticed_seconds": max(noticed, default=None),
            "longest_seconds": max((found["seconds"] for found in kills), default=None),
            "failed": [found["failed"] for found in kills if found["failed"]],
            "locks_left": sum(bool(found["left"]) for found in kills),
        },
        "different_bytes": len(digests) - 1,
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
