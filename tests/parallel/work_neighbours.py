"""One rank of a launch that looks one token back over the ranks that share rows."""

from __future__ import annotations

from typing import Any, Dict, List

ROWS, LENGTH, WIDTH = 2, 8, 3


def one_back(payload: List[str]) -> Dict[str, Any]:
    """For sep and for cp: what is found one token back, and the gradient of sum(slopes * it), of own tokens."""
    import os

    import paddle

    from paddlenlp.parallel import set_topology
    from paddlenlp.parallel.mesh import Mesh
    from paddlenlp.parallel.neighbours import one_back
    from paddlenlp.parallel.sequence import own_share

    rank, world = (int(os.environ[name]) for name in ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM"))
    found = {}
    for way in payload:
        set_topology(Mesh(**{way: world}), rank)
        whole = paddle.arange(ROWS * LENGTH * WIDTH, dtype="float32").reshape([ROWS, LENGTH, WIDTH]) + 1
        x = own_share(whole).clone()
        x.stop_gradient = False
        y = one_back(x)
        (y * own_share(whole * whole)).sum().backward()
        shifted = paddle.concat([paddle.zeros_like(whole[:, :1]), whole[:, :-1]], 1)
        slopes = paddle.concat([(whole * whole)[:, 1:], paddle.zeros_like(whole[:, :1])], 1)
        gaps = (y - own_share(shifted), x.grad - own_share(slopes))
        found[way] = [float(gap.abs().max()) for gap in gaps]
    return found
