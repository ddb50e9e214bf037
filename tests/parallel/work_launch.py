"""A rank of the launch tests: `work_launch.py MODE FOLDER` does what MODE says and leaves its findings in FOLDER."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from paddlenlp.parallel.failure import run_as_rank

RANK, WORLD = (int(os.environ[f"PADDLE_TRAINER{name}"]) for name in ("_ID", "S_NUM"))
CULPRIT = 1


def main() -> None:
    """Meet the others; rank 1 fails; the others wait for it, or compute."""
    mode, folder = sys.argv[1], Path(sys.argv[2])
    if mode == "raises_early" and RANK == CULPRIT:
        raise ValueError("broken on purpose")
    from paddlenlp.parallel.socket_group import SocketGroup

    group = SocketGroup("world", range(WORLD), RANK)
    group.barrier()
    if mode == "collectives":
        return collectives(folder)
    if RANK == 0:
        (folder / "met").touch()
    if RANK == CULPRIT:
        globals()[mode]()
    if mode == "dies" and RANK == 2:
        time.sleep(600)  # too busy to notice anything
    group.barrier()
    return None


def raises() -> None:
    raise ValueError("broken on purpose")


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def crashes() -> None:
    ctypes.string_at(0)


def waits() -> None:
    time.sleep(600)


def collectives(folder: Path) -> None:
    """The world, and groups across and within hosts of two ranks; the result goes to a file."""
    import paddle

    from paddlenlp.parallel.socket_group import SocketGroup

    found = []
    for ranks in ([0, 1, 2, 3], [0, 1], [2, 3], [0, 2], [1, 3], [1, 2]):
        if RANK not in ranks:
            continue
        group = SocketGroup("lines", ranks, ranks.index(RANK))
        small, large = paddle.full([3], RANK + 1.0), paddle.full([100000], RANK + 1.0)
        group.all_reduce(small).wait()
        group.all_reduce(large).wait()
        rows = paddle.full([len(ranks), 2], RANK + 1.0)
        results = [
            small,
            large[-1:],
            group.all_gather(paddle.to_tensor([RANK])).wait(),
            group.reduce_scatter(rows).wait(),
            group.all_to_all(rows).wait(),
            group.broadcast(paddle.to_tensor([RANK]), len(ranks) - 1).wait(),
        ]
        group.send(rows, (group.rank + 1) % group.size).wait()
        results.append(group.receive(rows.shape, "float32", (group.rank - 1) % group.size).wait())
        found.append([ranks, *(result.flatten().tolist() for result in results)])
        group.barrier()
    (folder / f"{RANK}.json").write_text(json.dumps([os.getcwd(), found]))


if __name__ == "__main__":
    sys.exit(run_as_rank(main))
