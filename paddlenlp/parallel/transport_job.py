"""Who belongs to this job: addresses and key from the launcher's environment, and how ranks know each other by them.

Both sides of a connection prove that they know the job's key before anything else is read (challenge and response with
HMAC-SHA256, RFC 2104), so that neither a stranger nor a rank of another job gets a word in. What follows is neither
signed nor encrypted: whoever can write into other people's connections is not kept out.

The key is a digest of what all ranks of one job have in common: the addresses and ports the launcher has chosen, which
keep jobs apart, and the variable PADDLENLP_JOB_KEY, any text, which keeps out those who can guess the ports. Set it to
something secret, the same on all hosts, where others share the machines or the network.
"""

from __future__ import annotations

import hmac
import json
import os
import socket
import struct
import time
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Tuple

from paddlenlp.utils.errors import UsageError

SECRET = "PADDLENLP_JOB_KEY"
_MAGIC = b"PdNLP-1\n"
_HELLO = struct.Struct(f"<{len(_MAGIC)}sI32s")  # magic, rank, challenge
_REPLY = struct.Struct("<32s32s")  # challenge, proof
_PROOF = struct.Struct("<32s")
_WELCOME = b"!"


class Refused(Exception):
    """The other side is not a rank of this job, or not one that was expected."""


@dataclass(frozen=True)
class Job:
    """This process's place among the ranks of a job.

    Attributes:
        rank: its global rank.
        addresses: host and port of every rank, in rank order.
        key: what only ranks of this job know.
    """

    rank: int
    addresses: Tuple[Tuple[str, int], ...]
    key: bytes

    @classmethod
    def from_environment(cls) -> Job:
        """As `python -m paddle.distributed.launch` describes it.

        Raises:
            UsageError: the launcher's variables are missing or contradict each other.
        """
        rank, endpoints = os.environ.get("PADDLE_TRAINER_ID", ""), _endpoints()
        addresses = tuple(_address(endpoint) for endpoint in endpoints.split(","))
        if not rank.isdigit() or int(rank) >= len(addresses):
            raise UsageError(
                f"PADDLE_TRAINER_ID is {rank!r}, expected a number below {len(addresses)}, the number of addresses in "
                "PADDLE_TRAINER_ENDPOINTS. Start the program with python -m paddle.distributed.launch, which sets both."
            )
        shared = (endpoints, os.environ.get("PADDLE_MASTER", ""), os.environ.get(SECRET, ""))
        return cls(int(rank), addresses, sha256(json.dumps(shared).encode()).digest())

    @property
    def size(self) -> int:
        """How many ranks there are."""
        return len(self.addresses)

    def place(self, rank: int) -> str:
        """host:port of a rank."""
        return "{}:{}".format(*self.addresses[rank])


def greet(connection: socket.socket, job: Job, peer: int) -> None:
    """The connecting side: make sure that rank `peer` of this job is at the other end. Waits as long as it takes.

    Raises:
        Refused: it is not, or does not want this connection.
        OSError: the connection broke.
    """
    challenge = os.urandom(32)
    connection.sendall(_HELLO.pack(_MAGIC, job.rank, challenge))
    counter, proof = _REPLY.unpack(_exactly(connection, _REPLY.size))
    if not hmac.compare_digest(proof, _prove(job, b"listening", peer, job.rank, challenge + counter)):
        raise Refused(f"what answers at {job.place(peer)} is not rank {peer} of this job")
    connection.sendall(_prove(job, b"connecting", peer, job.rank, challenge + counter))
    _exactly(connection, len(_WELCOME))


def answer(connection: socket.socket, job: Job, seconds: float) -> int:
    """The listening side: which rank of this job is at the other end, to be told so with `welcome`.

    Raises:
        Refused: none is.
        OSError: the connection broke, or the other side took longer than `seconds`.
    """
    end = time.monotonic() + seconds
    magic, peer, challenge = _HELLO.unpack(_exactly(connection, _HELLO.size, end))
    if magic != _MAGIC or not job.rank < peer < job.size:
        raise Refused("not a greeting of a rank that connects to this one")
    counter = os.urandom(32)
    connection.sendall(_REPLY.pack(counter, _prove(job, b"listening", job.rank, peer, challenge + counter)))
    (proof,) = _PROOF.unpack(_exactly(connection, _PROOF.size, end))
    if not hmac.compare_digest(proof, _prove(job, b"connecting", job.rank, peer, challenge + counter)):
        raise Refused(f"does not know the key of this job, though it says that it is rank {peer}")
    return peer


def welcome(connection: socket.socket) -> None:
    """The listening side's last word: from here on frames follow."""
    connection.sendall(_WELCOME)


def _prove(job: Job, role: bytes, listening: int, connecting: int, challenges: bytes) -> bytes:
    text = role + struct.pack("<II", listening, connecting) + challenges
    return hmac.new(job.key, text, sha256).digest()


def _exactly(connection: socket.socket, size: int, end: float = float("inf")) -> bytes:
    data = b""
    while len(data) < size:
        left = end - time.monotonic()
        if left <= 0:
            raise socket.timeout("the greeting takes too long")
        connection.settimeout(None if left == float("inf") else left)
        more = connection.recv(size - len(data))
        if not more:
            raise Refused("the other side hung up during the greeting")
        data += more
    return data


def _endpoints() -> str:
    """host:port of all ranks. The launcher leaves out of the environment what is too long for it."""
    found = os.environ.get("PADDLE_TRAINER_ENDPOINTS")
    backup = os.environ.get("PADDLE_BACKUP_ENV_PATH")
    if not found and backup and Path(backup).is_file():
        found = json.loads(Path(backup).read_text()).get("PADDLE_TRAINER_ENDPOINTS")
    if not found:
        raise UsageError(
            "This process is one of several, but the environment does not say where the others are: "
            "PADDLE_TRAINER_ENDPOINTS is not set. Start the program with python -m paddle.distributed.launch."
        )
    return str(found)


def _address(endpoint: str) -> Tuple[str, int]:
    host, _, port = endpoint.strip().rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"PADDLE_TRAINER_ENDPOINTS has {endpoint!r} where host:port is expected.")
    return host, int(port)
