"""What each rank of `launch_many.py` does: form the groups of a tp2 x pp2 mesh and check sums over all of them."""

from __future__ import annotations

import os
import sys
from typing import Iterator

from paddlenlp.parallel.failure import run_as_rank


def main() -> None:
    """Sums small and large over every axis, and a message along every link."""
    import paddle

    from paddlenlp.parallel.mesh import Mesh
    from paddlenlp.parallel.topology import set_topology

    rank = int(os.environ["PADDLE_TRAINER_ID"])
    found = set_topology(Mesh(tp=2, pp=2), rank)
    for group in axes(found):
        for size in (1, 100_000):
            x = paddle.full([size], rank + 1.0)
            group.all_reduce(x).wait()
            assert float(x[-1]) == sum(group.ranks) + group.size, (group.name, x)
        gathered = group.all_gather(paddle.to_tensor([rank])).wait().tolist()
        assert gathered == list(group.ranks), (group.name, gathered)
    for way in ("forward", "backward"):
        into, out = found.links[f"{way}_in"], found.links[f"{way}_out"]
        out.send(paddle.full([1000], float(rank)), 1 - out.rank).wait()
        x = into.receive([1000], "float32", 1 - into.rank).wait()
        assert float(x[0]) == into.ranks[1 - into.rank], (way, x)
    found.world.group.barrier()
    print(f"rank {rank} done", flush=True)


def axes(found: object) -> Iterator[object]:
    """Groups of more than one rank."""
    for name in ("world", "pp", "tp", "ends"):
        axis = getattr(found, name)
        if axis.size > 1:
            yield axis.group


if __name__ == "__main__":
    sys.exit(run_as_rank(main))
