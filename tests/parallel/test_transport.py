"""Connections between ranks: who is let in, what is said of those that are missing, and how they part."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Any, Callable, Iterator, List

import pytest
from ranks import free_ports

from paddlenlp.parallel import transport as module
from paddlenlp.parallel import transport_meet
from paddlenlp.parallel.failure import RankFailed
from paddlenlp.parallel.transport import Transport
from paddlenlp.parallel.transport_job import Job, Refused, answer, greet
from paddlenlp.parallel.transport_link import COPIED, DATA, FAILED, Head
from paddlenlp.parallel.transport_mail import Arrival, Slot
from paddlenlp.utils.errors import UsageError

CHANNEL, TAG = 5, 3
KEY = b"k" * 32
LONG = 300.0
"""Seconds after which something hangs, on a machine however busy; the transport itself waits for longer."""


class Ranks:
    """Several ranks of one job in this process."""

    def __init__(self, size: int) -> None:
        self.addresses = tuple(("127.0.0.1", port) for port in free_ports(size))
        self.failures: List[RankFailed] = []
        self.started: List[Transport] = []

    def start(self, rank: int, key: bytes = KEY) -> Transport:
        transport = Transport(Job(rank, self.addresses, key), self.failures.append)
        transport.connect(range(len(self.addresses)))
        self.started.append(transport)
        return transport

    def all(self) -> List[Transport]:
        return [self.start(rank) for rank in range(len(self.addresses))]


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], Ranks]]:
    monkeypatch.setattr(module, "LINGER", 1.0)
    made = []

    def make(size: int) -> Ranks:
        made.append(Ranks(size))
        return made[-1]

    yield make
    monkeypatch.setattr(module, "FAREWELL", 0.05)
    for each in made:
        for transport in each.started:
            transport.leave(UsageError("the test is over"))


def send(source: Transport, to: int, body: bytes, number: int = 0, tag: int = TAG) -> Any:
    return source.send(to, CHANNEL, number, tag, memoryview(bytearray(body)))


def receive(target: Transport, source: int, size: int, number: int = 0) -> bytes:
    slot = Slot((source, CHANNEL, number), TAG, memoryview(bytearray(size)))
    arrival = Arrival([slot])
    target.expect(arrival)
    target.wait([arrival], [], "test of group pair [0, 1]", lambda tag: f"operation {tag}")
    return bytes(slot.view)


def kill(transport: Transport) -> None:
    """As when its process is killed: connections end without a word."""
    for link in transport._links.values():
        if link.socket is not None:
            link.socket.shutdown(socket.SHUT_RDWR)


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("size", [0, 1, COPIED, 5_000_000])
def test_frames_arrive_early_and_late(ranks: Callable[[int], Ranks], size: int) -> None:
    first, second = ranks(2).all()
    body = os.urandom(size)
    send(first, 1, body)
    assert receive(second, 0, size) == body
    waiting: List[bytes] = []
    thread = threading.Thread(target=lambda: waiting.append(receive(first, 1, size)))
    thread.start()
    time.sleep(0.05)
    send(second, 0, body)
    thread.join(LONG)
    assert waiting == [body]


def test_frames_are_found_by_number_whatever_the_order(ranks: Callable[[int], Ranks]) -> None:
    first, second = ranks(2).all()
    for number in range(5):
        send(first, 1, bytes([number]) * 7, number)
    assert [receive(second, 0, 7, number)[0] for number in (3, 0, 4, 2, 1)] == [3, 0, 4, 2, 1]


def test_sending_does_not_wait_for_a_rank_that_is_not_there_yet(ranks: Callable[[int], Ranks]) -> None:
    job = ranks(2)
    first = job.start(0)
    large = os.urandom(8_000_000)
    send(first, 1, b"small")
    parcel = send(first, 1, large, 1)
    assert not parcel.out
    second = job.start(1)
    assert receive(second, 0, 5) == b"small"
    assert receive(second, 0, len(large), 1) == large
    until(lambda: parcel.out)


def test_little_may_be_overwritten_at_once(ranks: Callable[[int], Ranks]) -> None:
    job = ranks(2)
    first = job.start(0)
    body = bytearray(b"before")
    first.send(1, CHANNEL, 0, TAG, memoryview(body))
    body[:] = b"after!"
    assert receive(job.start(1), 0, 6) == b"before"


def strangers(address: Any) -> List[socket.socket]:
    """Someone who says nothing, someone who speaks another language, someone who hangs up half-way."""
    connections = [socket.create_connection(address) for _ in range(4)]
    connections[1].sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
    connections[2].sendall(os.urandom(4096))
    connections[3].sendall(b"PdNLP-1\n\x01\x00")
    connections[3].close()
    return connections


def test_strangers_are_ignored(ranks: Callable[[int], Ranks]) -> None:
    job = ranks(2)
    first = job.start(0)
    early = strangers(job.addresses[0])
    second = job.start(1)
    send(second, 0, b"hello")
    assert receive(first, 1, 5) == b"hello"
    late = strangers(job.addresses[0])
    send(second, 0, b"again", 1)
    assert receive(first, 1, 5, 1) == b"again"
    assert not job.failures
    for connection in early + late:
        connection.close()


def test_a_crowd_of_silent_strangers_does_not_keep_ranks_out(
    ranks: Callable[[int], Ranks], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport_meet, "_CALLERS", 4)
    monkeypatch.setattr(transport_meet, "GREETING_SECONDS", 0.5)
    job = ranks(2)
    first = job.start(0)
    crowd = [socket.create_connection(job.addresses[0]) for _ in range(8)]
    second = job.start(1)
    send(second, 0, b"hello")
    assert receive(first, 1, 5) == b"hello"
    for connection in crowd:
        connection.close()


def test_ranks_of_another_job_are_kept_apart(ranks: Callable[[int], Ranks], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 1.0)
    job = ranks(2)
    first = job.start(0)
    other = job.start(1, b"another key")
    send(other, 0, b"wrong")
    until(lambda: "is not rank 0" in other._link(0).trouble)
    with pytest.raises(UsageError, match="has waited 1 s for rank 1. Rank 1: it has not connected yet"):
        receive(first, 1, 5)
    with pytest.raises(UsageError, match=r"what answers at 127.0.0.1:\d+ is not rank 0 of this job"):
        receive(other, 0, 5)


def test_a_stranger_cannot_pass_for_a_rank_without_the_key() -> None:
    here, there = socket.socketpair()
    job = Job(0, (("a", 1), ("b", 2)), KEY)
    errors: List[Exception] = []

    def listen() -> None:
        try:
            answer(here, job, 5)
        except (Refused, OSError) as error:
            errors.append(error)

    thread = threading.Thread(target=listen)
    thread.start()
    there.sendall(b"PdNLP-1\n" + b"\x01\x00\x00\x00" + bytes(32))
    reply = there.recv(64)
    there.sendall(reply[32:])  # what rank 0 has just proved is of no use to prove the opposite
    thread.join(10)
    assert "does not know the key" in str(errors[0])


@pytest.mark.parametrize("claimed", [0, 2, 77])
def test_a_rank_that_does_not_connect_here_is_refused(claimed: int) -> None:
    """Higher ranks connect to lower ones; a rank neither takes itself for another nor one it has never heard of."""
    here, there = socket.socketpair()
    there.sendall(b"PdNLP-1\n" + claimed.to_bytes(4, "little") + bytes(32))
    with pytest.raises(Refused):
        answer(here, Job(0, (("a", 1), ("b", 2)), KEY), 5)


def test_a_listener_without_the_key_is_not_believed() -> None:
    here, there = socket.socketpair()
    there.sendall(bytes(64))
    with pytest.raises(Refused, match="what answers at a:1 is not rank 0 of this job"):
        greet(here, Job(1, (("a", 1), ("b", 2)), KEY), 0)


def test_timeout_names_who_is_missing(ranks: Callable[[int], Ranks], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.2)
    transports = ranks(3).all()
    send(transports[1], 0, b"here")
    until(lambda: len(transports[0]._mail._early) == 1 and all(link.socket for link in transports[0]._links.values()))
    slots = [Slot((source, CHANNEL, 0), TAG, memoryview(bytearray(4))) for source in (1, 2)]
    arrival = Arrival(slots)
    transports[0].expect(arrival)
    with pytest.raises(UsageError) as caught:
        transports[0].wait([arrival], [], "all_reduce of group tp [0, 1, 2]", str)
    assert str(caught.value).startswith("all_reduce of group tp [0, 1, 2]: rank 0 has waited 0.2 s for rank 2. Look at")


def test_a_rank_that_does_something_else_is_named(ranks: Callable[[int], Ranks]) -> None:
    first, second = ranks(2).all()
    send(second, 0, b"12345", tag=9)
    with pytest.raises(UsageError, match="rank 0 calls operation 3 and expects 4 bytes from rank 1, which calls opera"):
        receive(first, 1, 4)


def test_whoever_waits_hears_of_a_dead_rank_at_once(ranks: Callable[[int], Ranks]) -> None:
    job = ranks(3)
    transports = job.all()
    for peer in (1, 2):
        send(transports[peer], 0, b"x")
        receive(transports[0], peer, 1)
    caught: List[Exception] = []

    def wait(number: int, source: int) -> None:
        try:
            receive(transports[0], source, 1, number)
        except RankFailed as error:
            caught.append(error)

    threads = [threading.Thread(target=wait, args=(number, number)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    kill(transports[2])
    for thread in threads:
        thread.join(10)
    messages = sorted(map(str, caught))
    assert messages == [
        f"rank 2 has ended while rank 0 waits for {whom} in test of group pair [0, 1]" for whom in ("it", "rank 1")
    ]
    assert transports[0].failure is not None and transports[0].failure.rank == 2


def test_what_a_rank_has_sent_before_it_died_is_still_read(ranks: Callable[[int], Ranks]) -> None:
    job = ranks(2)
    first, second = job.all()
    send(second, 0, b"last")
    until(lambda: len(first._mail._early) == 1)
    kill(second)
    until(lambda: bool(job.failures))
    assert receive(first, 1, 4) == b"last"


def test_a_failing_rank_says_why(ranks: Callable[[int], Ranks]) -> None:
    first, second = ranks(2).all()
    send(second, 0, b"x")
    receive(first, 1, 1)
    second.leave(ValueError("out of\nideas"))
    with pytest.raises(RankFailed, match=r"^rank 1 has failed \(ValueError: out of ideas\) while rank 0 waits for it"):
        receive(first, 1, 1, 1)


def test_the_first_failure_is_passed_on(ranks: Callable[[int], Ranks]) -> None:
    """Rank 0 learns from rank 1 that rank 2 has failed, with which it has no connection."""
    job = ranks(3)
    first, second = job.start(0), job.start(1)
    send(second, 0, b"x")
    receive(first, 1, 1)
    second.leave(RankFailed(2, "has ended"))
    with pytest.raises(RankFailed, match="^rank 2 has ended while rank 0 waits for rank 1"):
        receive(first, 1, 1, 1)


def test_goodbye_lets_the_others_read_everything(ranks: Callable[[int], Ranks]) -> None:
    job = ranks(2)
    first = job.start(0)
    body = os.urandom(20_000_000)
    send(first, 1, body)
    leaving = threading.Thread(target=first.leave)
    leaving.start()  # rank 1 is not there yet
    second = job.start(1)
    assert receive(second, 0, len(body)) == body
    leaving.join(LONG)
    assert not leaving.is_alive() and not job.failures
    with pytest.raises(RankFailed, match="rank 0 has finished while rank 1 waits for it"):
        receive(second, 0, 1, 1)


def test_leaving_does_not_wait_for_ranks_that_never_came(ranks: Callable[[int], Ranks]) -> None:
    first = ranks(3).start(0)
    leaving = threading.Thread(target=first.leave, daemon=True)
    leaving.start()
    leaving.join(LONG)
    assert not leaving.is_alive()


def test_the_port_may_be_free_a_little_later(ranks: Callable[[int], Ranks]) -> None:
    job = ranks(2)
    with socket.socket() as blocker:
        blocker.bind(job.addresses[0])
        blocker.listen()
        threading.Timer(0.3, blocker.close).start()
        first = job.start(0)
    send(job.start(1), 0, b"hello")
    assert receive(first, 1, 5) == b"hello"


def test_a_port_that_stays_taken_is_named(ranks: Callable[[int], Ranks], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport_meet, "BIND_SECONDS", 0.1)
    job = ranks(1)
    with socket.create_server(job.addresses[0]), pytest.raises(UsageError, match=r"cannot listen at 127.0.0.1:\d+"):
        job.start(0)


def test_listens_on_its_own_address_only(ranks: Callable[[int], Ranks]) -> None:
    first = ranks(1).start(0)
    assert first._meeting.listener.getsockname()[0] == "127.0.0.1"


def test_a_call_that_reaches_itself_is_hung_up() -> None:
    """Where nobody listens, the kernel may give the calling end the port it calls."""
    with socket.socket() as caller:
        caller.bind(("127.0.0.1", 0))
        with pytest.raises(Refused, match="nobody listens"):
            transport_meet._connect(caller, caller.getsockname())


def test_a_rank_can_listen_on_a_port_that_a_connection_of_another_has_got() -> None:
    with socket.create_server(("127.0.0.1", 0)) as target, socket.socket() as caller:
        transport_meet._connect(caller, target.getsockname())
        with socket.create_server(caller.getsockname()):
            pass


def test_a_forked_child_does_not_keep_connections_alive(ranks: Callable[[int], Ranks]) -> None:
    job = ranks(2)
    first, second = job.all()
    send(second, 0, b"x")
    receive(first, 1, 1)
    module._current, child = second, 0
    try:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:  # it lives on, as a worker of a data loader would
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        second._over = True  # its process ends without a word
        second._close()
        with pytest.raises(RankFailed, match="rank 1 has ended"):
            receive(first, 1, 1, 1)
    finally:
        module._current = None
        os.close(write)
        os.waitpid(child, 0)


ENVIRONMENT = {"PADDLE_TRAINER_ID": "1", "PADDLE_TRAINER_ENDPOINTS": "10.0.0.1:70,10.0.0.2:71", "PADDLE_MASTER": "a:1"}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in ("PADDLENLP_JOB_KEY", "PADDLE_BACKUP_ENV_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_job_from_the_launchers_environment(launched: pytest.MonkeyPatch) -> None:
    job = Job.from_environment()
    assert (job.rank, job.addresses) == (1, (("10.0.0.1", 70), ("10.0.0.2", 71)))
    keys = {job.key}
    for name, value in (("PADDLENLP_JOB_KEY", "secret"), ("PADDLE_TRAINER_ENDPOINTS", "10.0.0.1:70,10.0.0.2:72")):
        launched.setenv(name, value)
        keys.add(Job.from_environment().key)
    launched.setenv("PADDLE_TRAINER_ID", "0")
    assert len(keys) == 3 and Job.from_environment().key in keys


def test_addresses_too_long_for_the_environment(launched: pytest.MonkeyPatch, tmp_path: Any) -> None:
    launched.delenv("PADDLE_TRAINER_ENDPOINTS")
    (tmp_path / "env.json").write_text('{"PADDLE_TRAINER_ENDPOINTS": "h:1,h:2,h:3"}')
    launched.setenv("PADDLE_BACKUP_ENV_PATH", str(tmp_path / "env.json"))
    assert Job.from_environment().size == 3


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("PADDLE_TRAINER_ENDPOINTS", "", "does not say where the others are"),
        ("PADDLE_TRAINER_ENDPOINTS", "a,b:1", "has 'a' where host:port is expected"),
        ("PADDLE_TRAINER_ID", "2", "is '2', expected a number below 2"),
        ("PADDLE_TRAINER_ID", "", "is '', expected a number below 2"),
    ],
)
def test_bad_environment(launched: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    launched.setenv(name, value)
    with pytest.raises(UsageError, match=message):
        Job.from_environment()


def test_heads_keep_their_fields() -> None:
    head = Head(DATA, 1 << 20, (1 << 64) - 1, 1 << 62, 123)
    assert head.kind != FAILED and len(head.pack()) == 32
