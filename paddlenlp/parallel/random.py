"""Initial values that depend on the seed of the run and the name of the parameter, and on nothing else.

Each parameter has its own stream, seeded by SHA-256 of "seed:name" and always drawn for the whole tensor, of which a
rank keeps its cut. So neither the number of ranks, nor the order of building, nor the storage dtype changes what a
model starts from; and a model with fused matrices starts from the values of the one with separate matrices.
"""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import Collection, Iterator, Optional, Sequence, Tuple, Union

import numpy as np
import paddle
from paddle import Tensor, nn

from .topology import topology

DEFAULT_SEED = 42

_seed = DEFAULT_SEED
_skip = False


def set_init_seed(seed: int) -> None:
    """The seed of the run, for the models built from now on."""
    global _seed
    _seed = int(seed)


def init_seed(name: str) -> int:
    """The seed of the parameter `name` under the seed of the run: a 128-bit number."""
    return int.from_bytes(hashlib.sha256(f"{_seed}:{name}".encode()).digest()[:16], "little")


@contextmanager
def skip_initialisation() -> Iterator[None]:
    """Within it models are built without drawing values: for a model whose weights are read from files next."""
    global _skip
    before, _skip = _skip, True
    try:
        yield
    finally:
        _skip = before


def initialise(model: nn.Layer, std: float, names: Optional[Collection[str]] = None) -> None:
    """Draw every parameter of `model`, or those of `names`, that has an `init_scale`: normal, with deviation `std *
    init_scale`.

    Of a fused one `init_scale` may be a tuple, with a factor for each of its parts. The others keep the constants they
    were made with.
    """
    if _skip:
        return
    for name, param in model.named_parameters():
        scale = getattr(param, "init_scale", None)
        if scale is not None and (names is None or name in names):
            fill(param, _whole(name, param, std, scale))


def fill(param: Tensor, whole: np.ndarray) -> None:
    """Set `param` to this rank's cut of `whole`, in the storage dtype of `param`."""
    tp = topology().tp
    share = np.ascontiguousarray(param.tp_layout.cut(whole, tp.rank, tp.size))
    param.set_value(paddle.to_tensor(share).astype(param.dtype))


def _whole(name: str, param: Tensor, std: float, scale: Union[float, Tuple[float, ...]]) -> np.ndarray:
    """The values of the whole parameter; each part of a fused one comes from its own stream."""
    fusion, shape = getattr(param, "fusion", None), param.whole_shape
    names = fusion.part_names(name) if fusion is not None else None
    scales = scale if isinstance(scale, tuple) else (scale,) * (len(names) if names else 1)
    if fusion is None or names is None:
        return _normal(name, shape, std * scales[0])
    parts = zip(names, fusion.sizes, scales)
    return fusion.fuse([_normal(part, [*shape[:-1], size], std * scale) for part, size, scale in parts])


def _normal(name: str, shape: Sequence[int], std: float) -> np.ndarray:
    stream = np.random.Generator(np.random.SFC64(init_seed(name)))
    values = stream.standard_normal(shape, dtype=np.float32)
    values *= np.float32(std)
    return values
