"""What each rank does in the tests of the groups."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Optional

KINDS = ("float32", "float64", "float16", "bfloat16", "int32", "int64", "uint8", "bool")


def every_operation(payload: Any) -> Dict[str, List[str]]:
    """Each operation in groups of 2, 3 and 4 ranks on all types and several shapes: what went wrong, by group."""
    from paddlenlp.parallel.socket_group import SocketGroup

    rank = int(os.environ["PADDLE_TRAINER_ID"])
    found = {}
    for ranks in payload["groups"]:
        if rank in ranks:
            group = SocketGroup("test", ranks, ranks.index(rank))
            check = Check(group, payload["direct"])
            found[str(ranks)] = check.all()
    SocketGroup("world", range(4), rank).barrier()
    return found


class Check:
    """Compares the operations of one group with what one process makes of what all its ranks give."""

    def __init__(self, group: Any, direct: int) -> None:
        import numpy as np

        self.group, self.direct = group, direct
        self.random = np.random.default_rng(7)
        self.wrong: List[str] = []

    def all(self) -> List[str]:
        from paddlenlp.parallel import socket_group

        for direct in (self.direct, 0):  # everything in one step where it is small; all_reduce in two
            socket_group.DIRECT = direct
            for kind in KINDS:
                for shape in ([], [0], [0, 3], [12, 5], [5000, 12]):
                    self.reductions(kind, shape)
                    self.movements(kind, shape)
        self.asynchronous()
        self.messages_out_of_order()
        self.views()
        return self.wrong

    def inputs(self, kind: str, shape: List[int]) -> List[Any]:
        """What every rank of the group gives, the same on all ranks."""
        import paddle

        values = [self.random.integers(0, 100, shape) / (7 if "float" in kind else 1) for _ in range(self.group.size)]
        values = [value % 2 for value in values] if kind == "bool" else values
        return [paddle.to_tensor(value).astype(kind).reshape(shape) for value in values]

    def reductions(self, kind: str, shape: List[int]) -> None:
        for op in ("sum", "max", "min"):
            inputs = self.inputs(kind, shape)
            expected = reduced(inputs, op)
            x = inputs[self.group.rank].clone()
            found = self.group.all_reduce(x, op).wait()
            self.same(f"all_reduce {op}", found, expected)
            self.same(f"all_reduce {op} in place", x, expected)
        size, rank = self.group.size, self.group.rank
        if shape:
            inputs = self.inputs(kind, [shape[0] * size, *shape[1:]])
            expected = reduced(inputs, "sum")[rank * shape[0] : (rank + 1) * shape[0]]
            self.same("reduce_scatter", self.group.reduce_scatter(inputs[rank]).wait(), expected)

    def movements(self, kind: str, shape: List[int]) -> None:
        import paddle

        group, size, rank = self.group, self.group.size, self.group.rank
        inputs = self.inputs(kind, shape)
        expected = paddle.concat([x.reshape([1]) if not shape else x for x in inputs])
        self.same("all_gather", group.all_gather(inputs[rank]).wait(), expected)
        for source in range(size):
            x = inputs[rank].clone()
            self.same("broadcast", group.broadcast(x, source).wait(), inputs[source])
            self.same("broadcast in place", x, inputs[source])
        sends = [group.send(inputs[rank], to) for to in range(size) if to != rank]
        for source in range(size):
            if source != rank:
                self.same("receive", group.receive(shape, kind, source).wait(), inputs[source])
        for work in sends:
            work.wait()
        if shape:
            self.to_all(kind, shape)

    def to_all(self, kind: str, shape: List[int]) -> None:
        import paddle

        group, size, rank = self.group, self.group.size, self.group.rank
        inputs = self.inputs(kind, [shape[0] * size, *shape[1:]])
        expected = paddle.concat([x[rank * shape[0] : (rank + 1) * shape[0]] for x in inputs])
        self.same("all_to_all", group.all_to_all(inputs[rank]).wait(), expected)
        counts = self.random.integers(0, 5, [size, size]).tolist()  # from, to
        inputs = [self.inputs(kind, [sum(row), *shape[1:]])[0] for row in counts]
        pieces = [x[sum(row[:rank]) : sum(row[: rank + 1])] for x, row in zip(inputs, counts)]
        received = [row[rank] for row in counts]
        found = group.all_to_all(inputs[rank], counts[rank], received).wait()
        self.same("all_to_all with counts", found, paddle.concat(pieces))

    def asynchronous(self) -> None:
        """Several operations under way, waited for in another order on every rank; inputs reused after the wait."""
        import numpy as np
        import paddle

        group = self.group
        inputs = [self.inputs("float32", [1000 * (1 + i)]) for i in range(6)]
        mine = [x[group.rank].clone() for x in inputs]
        works = [group.all_reduce(x) if i % 2 else group.all_gather(x) for i, x in enumerate(mine)]
        for i in np.random.default_rng(group.rank).permutation(6).tolist():
            expected = reduced(inputs[i], "sum") if i % 2 else paddle.concat(inputs[i])
            self.same(f"asynchronous {i}", works[i].wait(), expected)
            mine[i].zero_()

    def messages_out_of_order(self) -> None:
        """What is sent arrives in the order of sending, whenever it is asked for, and collectives do not disturb it."""
        import paddle

        group = self.group
        to, source = (group.rank + 1) % group.size, (group.rank - 1) % group.size
        sends = [group.send(paddle.full([300000], i, "int64"), to) for i in range(3)]
        first = group.receive([300000], "int64", source)
        second = group.receive([300000], "int64", source)
        group.barrier()
        third = group.receive([300000], "int64", source)
        found = [int(work.wait().sum()) // 300000 for work in (third, second, first)]
        if found != [2, 1, 0]:
            self.wrong.append(f"messages out of order: {found}")
        for work in sends:
            work.wait()

    def views(self) -> None:
        """Inputs that are not contiguous are copied; where the result must go back into them, they are refused."""
        import paddle

        inputs = self.inputs("float32", [8, 12])
        x = inputs[self.group.rank].transpose([1, 0])
        expected = paddle.concat([other.transpose([1, 0]) for other in inputs])
        self.same("all_gather of a view", self.group.all_gather(x).wait(), expected)
        for name in ("all_reduce", "broadcast"):  # x is still a view
            message = refusal(lambda name=name: getattr(self.group, name)(x))
            if message is None or "contiguous" not in message:
                self.wrong.append(f"{name} of a view: {message}")

    def same(self, what: str, found: Any, expected: Any) -> None:
        """The same type, shape and bits."""
        import numpy as np

        bits = [np.ascontiguousarray(x.numpy()).tobytes() for x in (found, expected)]
        if found.dtype != expected.dtype or found.shape != expected.shape or bits[0] != bits[1]:
            self.wrong.append(f"{what} of {expected.dtype} {expected.shape}")


def reduced(inputs: List[Any], op: str) -> Any:
    """In rank order; half-precision numbers in float32, rounded once at the end."""
    import paddle

    kind = inputs[0].dtype
    wide = {paddle.float16: "float32", paddle.bfloat16: "float32", paddle.bool: "int32", paddle.uint8: "int32"}.get(
        kind, kind
    )
    total = inputs[0].astype(wide)
    for x in inputs[1:]:
        x = x.astype(wide)
        total = {"sum": paddle.add, "max": paddle.maximum, "min": paddle.minimum}[op](total, x)
    return total.astype(kind)


def refusal(call: Callable[[], Any]) -> Optional[str]:
    """The message of the UsageError, if there is one."""
    from paddlenlp.utils.errors import UsageError

    try:
        call()
    except UsageError as error:
        return str(error)
    return None


def bits_and_bytes(payload: Any) -> Dict[str, Any]:
    """A float32 sum as bits from every rank and both algorithms, and what goes over the wire for it."""
    from hashlib import sha256

    import numpy as np
    import paddle

    from paddlenlp.parallel import socket_group
    from paddlenlp.parallel.transport import transport

    rank, world = (int(os.environ[f"PADDLE_TRAINER{name}"]) for name in ("_ID", "S_NUM"))
    group = socket_group.SocketGroup("world", range(world), rank)
    values = np.random.default_rng(rank).standard_normal(payload["size"], np.float32)
    digests, sent = [], []
    for direct in (1 << 40, 0, 0):
        socket_group.DIRECT = direct
        x = paddle.to_tensor(values)
        group.barrier()
        before = transport().sent_bytes
        group.all_reduce(x).wait()
        sent.append(transport().sent_bytes - before)
        group.barrier()
        digests.append(sha256(x.numpy().tobytes()).hexdigest())
    return {"digests": digests, "sent": sent}


def generations(payload: Any) -> List[float]:
    """Groups of the same name made again while a frame of the first is still unread."""
    import paddle

    from paddlenlp.parallel.socket_group import SocketGroup

    rank, world = (int(os.environ[f"PADDLE_TRAINER{name}"]) for name in ("_ID", "S_NUM"))
    found = []
    for value in range(3):
        group = SocketGroup("again", range(world), rank)
        if rank == 0:
            for to in range(1, world):
                group.send(paddle.full([2], value), to).wait()
        elif value:  # the first group's message is never asked for
            found.append(float(group.receive([2], "float32", 0).wait()[0]))
    SocketGroup("world", range(world), rank).barrier()
    return found


def mistakes(payload: Any) -> Dict[str, Optional[str]]:
    """What is refused, with its message."""
    import paddle

    from paddlenlp.parallel.socket_group import SocketGroup

    rank = int(os.environ["PADDLE_TRAINER_ID"])
    if rank > 1:
        return {}
    group = SocketGroup("pair", range(2), rank)
    x = paddle.ones([3, 2])
    found = {
        "rows": refusal(lambda: group.reduce_scatter(x)),
        "counts": refusal(lambda: group.all_to_all(x, [1, 1], [1, 1])),
        "op": refusal(lambda: group.all_reduce(x, "prod")),
        "type": refusal(lambda: group.all_reduce(x.astype("complex64"))),
    }
    other = SocketGroup("other", range(2), rank)
    work = other.all_reduce(x) if rank else other.all_gather(x)
    found["different operations"] = refusal(work.wait)
    other = SocketGroup("shapes", range(2), rank)
    found["different shapes"] = refusal(other.all_reduce(paddle.ones([rank + 1])).wait)
    return found


def together(payload: Dict[str, Any]) -> Dict[str, Any]:
    """Several of these functions in one launch: name -> result."""
    return {name: globals()[name](given) for name, given in payload.items()}
