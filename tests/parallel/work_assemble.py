"""One of two ranks that exchange values, run errands and put tensors together."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np

RANK = int(os.environ.get("PADDLE_TRAINER_ID", "0"))


def everything(payload: Dict[str, Any]) -> Dict[str, Any]:
    from paddlenlp.parallel.mesh import Mesh
    from paddlenlp.parallel.topology import set_topology

    set_topology(Mesh(tp=2), RANK)
    found = {"objects": _objects(), "errand": _errand(), "assembly": _assembly(Path(payload["folder"]))}
    set_topology(Mesh(sharding=2), RANK)
    found["shared"] = _shared()
    return found


def _outcome(action: Callable[[], Any]) -> Any:
    try:
        return action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _objects() -> Dict[str, Any]:
    from paddlenlp.parallel.objects import at_first, everyones, for_each, from_first

    return {
        "for_each": for_each(["é", {"long": "x" * 1000}] if RANK == 0 else None),
        "everyones": everyones({"rank": RANK, "long": "x" * 1000 * RANK}),
        "at_first": at_first(["é", RANK]),
        "from_first": from_first(RANK if RANK else {"from": 0}),
    }


def _errand() -> Dict[str, Any]:
    from paddlenlp.parallel import errand
    from paddlenlp.parallel.group import traffic
    from paddlenlp.utils.errors import UsageError

    def refuse() -> None:
        raise UsageError("disk full")

    before, errand.BEAT = errand.BEAT, 0.05
    sent = traffic.calls["world", "send"]

    def long() -> Dict[str, int]:
        """It ends when the other rank has been given some signs of life, or does not get any."""
        end = time.monotonic() + 60
        while traffic.calls["world", "send"] < sent + 3 and time.monotonic() < end:
            time.sleep(0.01)
        return {"who": RANK}

    done = errand.first_does(long)
    beats = traffic.calls["world", "send"] - sent
    errand.BEAT = before
    return {
        "done": done,
        "beats": beats,
        "refused": _outcome(lambda: errand.first_does(refuse)),
        "broken": _outcome(lambda: errand.first_does(lambda: 1 // 0)),
        "interrupted": _interrupted(),
        "after": errand.first_does(lambda: "still together"),
    }


def _interrupted() -> List[str]:
    """Rank 0 is interrupted while the errand's thread waits for a job: that thread and the others are let go."""
    from paddlenlp.parallel.errand import Errand

    trip = Errand()
    seen = []

    def action() -> None:
        def interrupt() -> None:
            raise KeyboardInterrupt

        try:
            trip.lent(interrupt)
        except KeyboardInterrupt:
            seen.append("the errand hears of it")
            raise

    try:
        trip.run(action)
    except BaseException as error:
        seen.append(f"{type(error).__name__}: {error}")
    return seen


def _arrays() -> Dict[str, np.ndarray]:
    stream = np.random.RandomState(0)
    shapes = {"rows": (4, 3), "columns": (3, 8), "fused": (2, 12), "heads": (2, 16), "whole": (5,), "number": ()}
    return {name: np.asarray(stream.rand(*shape), np.float32) for name, shape in shapes.items()}


def _layouts() -> Dict[str, Any]:
    from paddlenlp.parallel.layout import Layout

    # "heads": four query heads and one key and value head of width 2 2, fused, of which both ranks hold a copy
    return {
        "rows": Layout(0),
        "columns": Layout(1),
        "fused": Layout(1, (4, 8)),
        "heads": Layout(1, (8, 4, 4), (4, 1, 1)),
        "whole": Layout(),
        "number": Layout(),
    }


def _assembly(folder: Path) -> Dict[str, Any]:
    """Tensors cut over two tensor-parallel ranks, one of them known only to the second rank, as after a pipeline."""
    import paddle

    from paddlenlp.parallel.assemble import Assembly, Part, Whole
    from paddlenlp.parallel.group import traffic
    from paddlenlp.utils.tensor_writer import write_tensor_file

    def part(name: str, array: np.ndarray, layout: Any) -> Any:
        share = paddle.to_tensor(np.ascontiguousarray(layout.cut(array, RANK, 2)))
        whole = Whole(name, array.shape, tuple(share.shape), "float32", layout)
        return Part(whole, 0, share.size, lambda: share)

    arrays, layouts = _arrays(), _layouts()
    parts = [part(name, array, layouts[name]) for name, array in arrays.items()]
    if RANK == 0:
        parts.reverse()
    content = Assembly({"model": parts}, lambda name: name)
    traffic.clear()
    content.write(lambda: write_tensor_file(folder / "cut.safetensors", content.tensors["model"]) and None)
    found = {"listed": list(content.tensors["model"]), "sent": traffic.bytes["world", "send"]}
    if RANK == 0:
        write_tensor_file(folder / "whole.safetensors", arrays)
        found["equal"] = (folder / "cut.safetensors").read_bytes() == (folder / "whole.safetensors").read_bytes()
    found["failed"] = _outcome(lambda: content.write(lambda: _fail_at_second(content.tensors["model"])))
    found["again"] = content.write(lambda: float(np.asarray(content.tensors["model"]["rows"].make()).sum()))
    return found


def _fail_at_second(tensors: Dict[str, Any]) -> None:
    tensors["columns"].make()
    raise OSError(28, "No space left on device")


def _shared() -> Dict[str, Any]:
    """A tensor of which each of two sharding ranks has one piece, in low precision; and one that only rank 1 has."""
    import paddle

    from paddlenlp.parallel.assemble import Assembly, Part, Whole

    flat = paddle.arange(7, dtype="float32").astype("bfloat16")
    start, stop = ((0, 3), (3, 7))[RANK]
    parts = [Part(Whole("shared", (1, 7), (1, 7), "bfloat16"), start, stop, lambda: flat[start:stop])]
    if RANK == 1:
        other = paddle.full([2, 2], 3.0)
        parts.append(Part(Whole("alone", (2, 2), (2, 2), "float32"), 0, 4, lambda: other))
        parts.append(Part(Whole("half", (4,), (4,), "float32"), 2, 4, lambda: other[0]))
    content = Assembly({"model": parts}, lambda name: name)

    def read() -> Any:
        return {
            "shared": content.tensors["model"]["shared"].make().astype("float32").tolist(),
            "alone": content.tensors["model"]["alone"].make().tolist(),
            "half": _outcome(lambda: content.tensors["model"]["half"].make()),
        }

    return content.write(read)
