"""Jobs under Paddle's launcher, on one host or on two."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, Iterator, List, Sequence, Tuple

import pytest
from ranks import free_ports

LIMIT = 400
"""Seconds after which a launch hangs, on a machine however busy."""

Hosts = Tuple[List[str], List[List[str]]]


class Launch:
    """A job under way: its launcher in a folder of its own, and what it prints there.

    Args:
        folder: where it runs.
        program: script and arguments of each rank.
        options: options of the launcher.
        prefix: what to put before the command.
    """

    def __init__(
        self, folder: Path, program: Sequence[str], options: Sequence[str], prefix: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)
        command = [*prefix, sys.executable, "-m", "paddle.distributed.launch", "--log_dir", "log", *options]
        env = {name: value for name, value in os.environ.items() if not name.startswith("PADDLE")}
        self.out = (folder / "out").open("w+")
        self.launcher = subprocess.Popen(
            [*command, *program],
            cwd=folder,
            env={**env, "OMP_NUM_THREADS": "1"},
            stdout=self.out,
            stderr=subprocess.STDOUT,
        )

    def end(self) -> int:
        """The launcher's exit code."""
        return self.launcher.wait(LIMIT)

    @property
    def output(self) -> str:
        """What the launcher has printed."""
        return (self.folder / "out").read_text(errors="replace")

    def log(self, rank: int) -> str:
        """What a rank has printed."""
        return (self.folder / "log" / f"workerlog.{rank}").read_text(errors="replace")

    def processes(self) -> Dict[int, int]:
        """Process id -> rank, of its ranks and their children that are running."""
        found = {}
        for path in Path("/proc").glob("[0-9]*/environ"):
            with suppress(OSError):
                names = dict(item.partition(b"=")[::2] for item in path.read_bytes().split(b"\0"))
                if names.get(b"PADDLE_LOG_DIR", b"").decode() == str(self.folder / "log"):
                    found[int(path.parent.name)] = int(names[b"PADDLE_TRAINER_ID"])
        return found

    def wait_until_gone(self) -> None:
        """Until none of its processes is left: one that was killed takes a moment to end."""
        until(lambda: not self.processes())

    def clean_up(self) -> None:
        """End what is left of it."""
        self.launcher.kill()
        for number in self.processes():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.launcher.wait()
        self.out.close()


def until(condition: Any) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + LIMIT
    while not condition():
        assert time.monotonic() < end, "it does not happen"
        time.sleep(0.05)


@pytest.fixture
def started() -> Iterator[List[Launch]]:
    """The jobs of a test, which end with it: add yours."""
    jobs: List[Launch] = []
    yield jobs
    for job in jobs:
        job.clean_up()


def on_two_hosts(hosts: Hosts, processes: int) -> Iterator[Tuple[List[str], List[str]]]:
    """Options of the launcher and what to put before it on each of two hosts, with so many processes each."""
    addresses, prefixes = hosts
    master = f"{addresses[0]}:{free_ports(1)[0]}"
    for host, address in enumerate(addresses):
        place = ["--nnodes", "2", "--master", master, "--rank", str(host), "--host", address]
        yield [*place, "--nproc_per_node", str(processes)], prefixes[host]


@pytest.fixture(scope="session")
def hosts() -> Iterator[Hosts]:
    """The addresses of two hosts, and what to put before a command for it to run on each.

    They are two network namespaces, joined by a wire, with nothing else in them; where the kernel does not permit that,
    two loopback addresses.
    """
    wires = _wire() if sys.platform == "linux" else None
    if wires is None:
        yield ["127.0.0.1", "127.0.0.2"], [[], []]
        return
    holders, addresses = wires
    yield addresses, [_inside(holder) for holder in holders]
    for holder in holders:
        holder.kill()
        holder.wait()


def _wire() -> Any:
    """Two processes that hold a network each, and their addresses; None if that is not permitted."""
    holders: List[subprocess.Popen] = []
    addresses = ["10.123.45.1", "10.123.45.2"]
    try:
        holders.append(_hold(["unshare", "--user", "--map-root-user", "--net"]))
        holders.append(_hold([*_inside(holders[0]), "unshare", "--net"]))
        other = str(holders[1].pid)
        _ip(holders[0], "link", "add", "wire0", "type", "veth", "peer", "name", "wire1", "netns", other)
        for number, (holder, address) in enumerate(zip(holders, addresses)):
            _ip(holder, "address", "add", f"{address}/24", "dev", f"wire{number}")
            _ip(holder, "link", "set", f"wire{number}", "up")
            _ip(holder, "link", "set", "lo", "up")
        return holders, addresses
    except (OSError, subprocess.CalledProcessError):
        for holder in holders:
            holder.kill()
            holder.wait()
        return None


def _inside(holder: subprocess.Popen) -> List[str]:
    return ["nsenter", f"--target={holder.pid}", "--user", "--net", "--preserve-credentials"]


def _ip(holder: subprocess.Popen, *arguments: str) -> None:
    subprocess.run([*_inside(holder), "ip", *arguments], check=True, capture_output=True)


def _hold(command: Sequence[str]) -> subprocess.Popen:
    """A process in a namespace of its own that stays as long as this one, however long the tests take."""
    pipe = subprocess.PIPE
    holder = subprocess.Popen([*command, "sh", "-c", "echo; exec cat"], stdin=pipe, stdout=pipe)
    if holder.stdout is None or not holder.stdout.readline():
        raise OSError(f"{command} is not permitted")
    return holder
