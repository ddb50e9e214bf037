"""What `PaddleGroup` asks of `paddle.distributed`.

There is no GPU here: a stand-in takes the place of `paddle.distributed`. It records the calls and answers as a group
would in which every rank gives what this one does. That the calls fit the real functions is checked by their
signatures; that NCCL does what is asked is not.
"""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any, Dict, List, Tuple

import paddle
import paddle.distributed as real
import pytest

from paddlenlp.parallel import paddle_group
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.parallel.paddle_group import PaddleGroup
from paddlenlp.parallel.transport import TIMEOUT

RANKS = (2, 5, 7)


class Task:
    """An operation under way; its effect shows when it is waited for."""

    def __init__(self, effect: Any) -> None:
        self.effect, self.waited = effect, 0

    def wait(self) -> None:
        self.waited += 1
        self.effect()


class Distributed:
    """The stand-in. `calls`: (function, arguments by name)."""

    ReduceOp = real.ReduceOp

    def __init__(self) -> None:
        self.calls: List[Tuple[str, Dict[str, Any]]] = []
        self.tasks: List[Task] = []
        self.started = 0
        names = ("all_reduce", "all_gather", "reduce_scatter", "alltoall_single", "broadcast", "send", "recv")
        self.stream = SimpleNamespace(**{name: self.recorder(name) for name in names})

    def recorder(self, name: str) -> Any:
        signature = inspect.signature(getattr(real.stream, name))

        def call(*args: Any, **kwargs: Any) -> Task:
            given = signature.bind(*args, **kwargs).arguments
            assert given["group"] == "group" and given["sync_op"] is False and "use_calc_stream" not in given
            self.calls.append((name, given))
            self.tasks.append(Task(lambda: self.effect(name, given)))
            return self.tasks[-1]

        return call

    @staticmethod
    def effect(name: str, given: Dict[str, Any]) -> None:
        if name == "all_reduce" and given["op"] == real.ReduceOp.SUM:
            given["tensor"].scale_(len(RANKS))
        if name == "all_gather":
            paddle.assign(paddle.concat([given["tensor"]] * len(RANKS)), given["tensor_or_tensor_list"])

    def is_initialized(self) -> bool:
        return self.started > 0

    def init_parallel_env(self) -> None:
        self.started += 1

    def new_group(self, ranks: List[int], timeout: Any) -> str:
        self.calls.append(("new_group", {"ranks": ranks, "seconds": timeout.total_seconds()}))
        return "group"

    def barrier(self, group: str) -> None:
        self.calls.append(("barrier", {"group": group}))


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Distributed:
    made = Distributed()
    monkeypatch.setattr(paddle_group, "dist", made)
    return made


@pytest.fixture
def group(fake: Distributed) -> PaddleGroup:
    made = PaddleGroup("tp", RANKS, 1)
    fake.calls.clear()
    return made


def test_every_group_is_made_and_the_environment_once(fake: Distributed) -> None:
    PaddleGroup("tp", RANKS, 1)
    PaddleGroup("others", (0, 1), -1)
    assert fake.started == 1
    assert [given["ranks"] for _, given in fake.calls] == [[2, 5, 7], [0, 1]]
    assert all(given["seconds"] == TIMEOUT for _, given in fake.calls)
    assert "ranks" in inspect.signature(real.new_group).parameters
    assert "timeout" in inspect.signature(real.new_group).parameters


@pytest.mark.parametrize("op", ["sum", "max", "min"])
def test_all_reduce(fake: Distributed, group: PaddleGroup, op: str) -> None:
    x = paddle.ones([2])
    work = group.all_reduce(x, op)
    assert fake.tasks[0].waited == 0  # it runs while the program goes on
    assert work.wait() is x and work.wait() is x and fake.tasks[0].waited == 1
    assert fake.calls[0][1]["op"] == getattr(real.ReduceOp, op.upper())
    assert x.tolist() == ([3.0, 3.0] if op == "sum" else [1.0, 1.0])


@pytest.mark.parametrize(("op", "sent"), [("sum", "MAX"), ("max", "MAX"), ("min", "MIN")])
def test_truth_values_travel_as_numbers(fake: Distributed, group: PaddleGroup, op: str, sent: str) -> None:
    x = paddle.to_tensor([True, False])
    assert group.all_reduce(x, op).wait() is x and x.tolist() == [True, False] and x.dtype == paddle.bool
    given = fake.calls[0][1]
    assert given["tensor"].dtype == paddle.uint8 and given["op"] == getattr(real.ReduceOp, sent)


def test_all_gather(fake: Distributed, group: PaddleGroup) -> None:
    assert group.all_gather(paddle.to_tensor([[1, 2]])).wait().tolist() == [[1, 2]] * 3
    assert group.all_gather(paddle.to_tensor(4)).wait().tolist() == [4, 4, 4]


def test_reduce_scatter(fake: Distributed, group: PaddleGroup) -> None:
    out = group.reduce_scatter(paddle.ones([6, 4], "bfloat16")).wait()
    given = fake.calls[0][1]
    assert out is given["tensor"] and out.shape == [2, 4] and out.dtype == paddle.bfloat16
    assert given["tensor_or_tensor_list"].shape == [6, 4] and given["op"] == real.ReduceOp.SUM


def test_all_to_all(fake: Distributed, group: PaddleGroup) -> None:
    assert group.all_to_all(paddle.ones([6, 4])).wait().shape == [6, 4]
    assert group.all_to_all(paddle.ones([6, 4]), [1, 2, 3], [0, 1, 1]).wait().shape == [2, 4]
    splits = [(given["in_split_sizes"], given["out_split_sizes"]) for _, given in fake.calls]
    assert splits == [([2, 2, 2], [2, 2, 2]), ([1, 2, 3], [0, 1, 1])]


def test_ranks_are_global_where_paddle_wants_them_so(fake: Distributed, group: PaddleGroup) -> None:
    x = paddle.ones([2])
    assert group.broadcast(x, 2).wait() is x
    assert group.send(x, 0).wait() is None
    received = group.receive([2, 3], "int64", 2).wait()
    assert received.shape == [2, 3] and received.dtype == paddle.int64
    group.barrier()
    names = [(name, given.get("src", given.get("dst"))) for name, given in fake.calls]
    assert names == [("broadcast", 7), ("send", 2), ("recv", 7), ("barrier", None)]


def test_the_watchdog_counts_what_all_ranks_take_part_in(fake: Distributed, group: PaddleGroup) -> None:
    """Devices wait, and not the program: how many operations a rank has begun shows who is behind."""
    other, pair = PaddleGroup("others", (0, 1), -1), PaddleGroup("links", (2, 5), 1)
    group.all_reduce(paddle.ones([2])).wait()
    group.barrier()
    group.send(paddle.ones([2]), 0).wait()
    pair.send(paddle.ones([2]), 0).wait()
    pair.receive([2], "float32", 0).wait()
    found = beat.turns()
    assert found[group.key] == 2 and found[pair.key] == 2 and other.key not in found
    assert group.key != PaddleGroup("dp", RANKS, 1).key
