"""One rank of a launch whose ranks share rows of tokens: attention alone, and LLaMA, against one process.

Every rank holds the whole inputs, works out what one process gets, and compares its own share with it.
"""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List

import numpy as np

RANK, WORLD = (int(os.environ.get(name, "0")) for name in ("PADDLE_TRAINER_ID", "PADDLE_TRAINERS_NUM"))

SHAPE = dict(b=2, s=16, h=4, hkv=2, d=4, dv=4)

UNLIKE = dict(b=2, s=16, h=8, hkv=4, d=6, dv=3)
"""A shape whose sizes all differ, for counting bytes."""

CORES: Dict[str, Dict[str, Any]] = {
    "grouped": {},
    "longer rows": dict(b=1, s=64, d=16, dv=16),
    "one key head": dict(hkv=1),
    "every head its own": dict(hkv=4),
    "uneven groups": dict(h=12, hkv=3),
    "values of another size": dict(d=6, dv=3, hkv=4),
    "scale": dict(scale=0.7),
    "window 2": dict(window=2),
    "window 3": dict(window=3),
    "window 5": dict(window=5),
    "slopes": dict(slopes=True),
    "padding": dict(mask=2),
    "padding, window": dict(mask=2, window=4),
    "any mask": dict(mask=4),
    "mask for each head, slopes": dict(mask=4, heads=True, slopes=True),
    "rotary": dict(rotary={}),
    "rotary, positions": dict(rotary={}, positions=True),
    "rotary, dynamic": dict(rotary={"rope_type": "dynamic", "factor": 2.0}),
    "small tiles": dict(tile=3, s=32, window=9),
    "recompute": dict(recompute=False),
    "recompute, reentrant": dict(recompute=True),
    "low precision": dict(emulated=True),
}
"""Name -> what is not as in SHAPE, and the arguments of `attend`."""

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.2,
)


def mesh(mode: str, rank: int = RANK) -> Any:
    """Make a layout like "tp2+sp cp2" the topology."""
    from paddlenlp.parallel.mesh import Mesh
    from paddlenlp.parallel.topology import set_topology

    words = mode.replace("+sp", "").split()
    degrees = {word.rstrip("0123456789"): int(word.lstrip("abcdefghijklmnopqrstuvwxyz")) for word in words}
    return set_topology(Mesh(**degrees), rank, sequence_parallel="+sp" in mode)


def alone() -> Any:
    """Make one process the topology."""
    return mesh("dp1", 0)


def furthest(found: Any, expected: Any) -> float:
    """Norm of the difference over the norm of what is expected (1 where that is 0)."""
    difference, expected = (x.astype("float64").numpy() for x in (found.astype("float64") - expected, expected))
    return float(np.linalg.norm(difference) / (np.linalg.norm(expected) or 1.0))


def everything(payload: Dict[str, Any]) -> Dict[str, Any]:
    """What functions of this module return: name -> for the payload given under it."""
    return {name: globals()[name](part) for name, part in payload.items()}


def attention(payload: Dict[str, List[str]]) -> Dict[str, Dict[str, float]]:
    """Layout -> case -> greatest deviation among result and gradients."""
    return {mode: {name: _core(mode, **CORES[name]) for name in names} for mode, names in payload.items()}


def _core(mode: str, **changes: Any) -> float:
    import paddle

    from paddlenlp.nn import blocks, set_recompute
    from paddlenlp.nn.precision import Precision, set_precision
    from paddlenlp.nn.recompute import RecomputePolicy
    from paddlenlp.parallel.sequence import own_share

    tile, blocks.TILE = blocks.TILE, changes.pop("tile", blocks.TILE)
    set_precision(Precision(compute="bfloat16", emulated=changes.pop("emulated", False)))
    paddle.seed(1)
    run = _attention_of(**changes)
    alone()
    expected = run(lambda x: x)
    if "recompute" in changes:
        set_recompute(RecomputePolicy(True, "core_attn", use_reentrant=changes["recompute"]))
    mesh(mode)
    found = run(own_share)
    blocks.TILE = tile
    set_recompute(RecomputePolicy())
    set_precision(Precision())
    return max(furthest(own, own_share(whole)) for own, whole in zip(found, expected))


def _attention_of(
    window: Any = None,
    scale: Any = None,
    slopes: bool = False,
    mask: int = 0,
    heads: bool = False,
    rotary: Any = None,
    positions: bool = False,
    recompute: Any = None,
    **changes: int,
) -> Callable[[Callable], List[Any]]:
    """A function that gives result and gradients of `attend` for the share of the tokens that its argument cuts."""
    import paddle

    from paddlenlp.nn import Rotary
    from paddlenlp.nn.batch import make_batch
    from paddlenlp.nn.core import attend

    b, s, h, hkv, d, dv = {**SHAPE, **changes}.values()
    whole = [paddle.randn(shape) for shape in ([b, s, h, d], [b, s, hkv, d], [b, s, hkv, dv], [b, s, h, dv])]
    seen = {
        0: None,
        2: paddle.arange(s).unsqueeze(0) >= paddle.to_tensor([[0], [s // 2 + 1]]),
        4: paddle.rand([1, h if heads else 1, s, s]) < 0.4,
    }[mask]
    options = dict(window=window, scale=scale, slopes=np.geomspace(1, 0.1, h, dtype=np.float32) if slopes else None)
    if rotary is not None:
        options["position"] = Rotary(d, 100.0, rotary, max_length=s // 2)
    at = paddle.randint(0, 3 * s, [b, s]) if positions else None

    def run(share: Callable) -> List[Any]:
        q, k, v, weight = (share(x).clone() for x in whole)
        for x in (q, k, v):
            x.stop_gradient = False
        batch = make_batch(share(paddle.zeros([b, s], "int64")), at, seen)
        batch = batch._replace(recompute=None if recompute is None else "core_attn")
        y = attend(q, k, v, batch, **options)
        (y * weight).sum().backward()
        return [y.detach(), q.grad, k.grad, v.grad]

    return run


def cost(payload: List[str]) -> Dict[str, Any]:
    """What one layer's attention costs: layout -> blocks computed, and "group operation" -> [calls, bytes]."""
    return {mode: _cost(mode) for mode in payload}


def _cost(mode: str) -> Dict[str, Any]:
    from paddlenlp.nn import ring
    from paddlenlp.parallel.group import traffic
    from paddlenlp.parallel.sequence import own_share

    mesh(mode)
    run, blocks = _attention_of(**UNLIKE), {}
    functions = {name: getattr(ring, name) for name in ("block_attention", "block_gradients")}
    for name, function in functions.items():
        blocks[name] = 0
        setattr(ring, name, _counted(function, blocks, name))
    traffic.clear()
    run(own_share)
    for name, function in functions.items():
        setattr(ring, name, function)
    return {
        **blocks,
        **{f"{at} {kind}": [calls, traffic.bytes[at, kind]] for (at, kind), calls in traffic.calls.items()},
    }


def _counted(function: Callable, counts: Dict[str, int], name: str) -> Callable:
    def counted(*args: Any) -> Any:
        counts[name] += 1
        return function(*args)

    return counted


def refused(payload: Dict[str, List[str]]) -> Dict[str, Dict[str, str]]:
    """Layout -> bad use -> the message it gets."""
    return {mode: {name: _message(mode, name) for name in names} for mode, names in payload.items()}


def _message(mode: str, name: str) -> str:
    import paddle

    from paddlenlp.nn.batch import make_batch
    from paddlenlp.nn.cache import KVCache
    from paddlenlp.nn.core import attend
    from paddlenlp.parallel.sequence import own_positions, own_share
    from paddlenlp.utils.errors import UsageError

    size = mesh(mode).sequence.size
    ids = paddle.zeros([1, 4], "int64")
    q = paddle.zeros([1, 4, 2 * size - 1, 2])
    uses = {
        "length": lambda: own_share(paddle.zeros([1, 2 * size - 1], "int64")),
        "odd length": lambda: own_positions(size),
        "cache": lambda: make_batch(ids, cache=KVCache(1)),
        "own positions": lambda: make_batch(ids, position_ids=ids),
        "own mask": lambda: make_batch(ids, attention_mask=ids),
        "heads": lambda: attend(q, q, q, make_batch(ids)),
        "dropout": lambda: attend(q, q, q, make_batch(ids), dropout=0.1),
    }
    try:
        uses[name]()
    except UsageError as error:
        return str(error)
    return "nothing was refused"


def llama(payload: Dict[str, Dict[str, Any]]) -> Dict[str, Dict[str, float]]:
    """Case -> how far the loss and the gradient that is furthest away are from those of one process."""
    return {name: _llama(**case) for name, case in payload.items()}


def _llama(mode: str, recompute: Any = None, positions: bool = False, **changes: Any) -> Dict[str, float]:
    from paddlenlp.nn import set_recompute
    from paddlenlp.nn.recompute import RecomputePolicy

    alone()
    expected, gradients = _step(changes, positions)
    if recompute is not None:
        set_recompute(RecomputePolicy(True, recompute[0], use_reentrant=recompute[1]))
    tp = mesh(mode).tp
    found, own = _step(changes, positions)
    set_recompute(RecomputePolicy())
    shares = {name: layout.cut(whole, tp.rank, tp.size) for name, (layout, whole) in gradients.items()}
    norms = {name: float(np.linalg.norm(own[name][1] - share)) for name, share in shares.items()}
    worst = max(norms, key=lambda name: norms[name] / np.linalg.norm(shares[name]))
    return {
        "loss": abs(found - expected) / expected,
        "gradient": norms[worst] / float(np.linalg.norm(shares[worst])),
        "worst": worst,
    }


def _step(changes: Dict[str, Any], positions: bool) -> Any:
    """Mean loss and, summed over the ranks that share rows, the gradients: name -> (layout, array)."""
    import paddle

    from paddlenlp.nn.batch import make_batch
    from paddlenlp.parallel.sequence import own_share
    from paddlenlp.parallel.topology import topology
    from paddlenlp.transformers.llama.configuration import LlamaConfig
    from paddlenlp.transformers.llama.modeling import LlamaForCausalLM

    random = np.random.RandomState(0)
    tokens = random.randint(0, SIZES["vocab_size"], (2, 17))
    labels = np.where(random.rand(2, 16) < [[0.2], [0.7]], -100, tokens[:, 1:])
    at = paddle.to_tensor(random.randint(0, 40, (2, 16))) if positions else None
    ids, answers = own_share(paddle.to_tensor(tokens[:, :-1])), own_share(paddle.to_tensor(labels))
    model, group = LlamaForCausalLM(LlamaConfig(**{**SIZES, **changes})), topology().sequence.group
    loss = model.run(ids.reshape([-1]), make_batch(ids, at), labels=answers.reshape([-1]))
    loss = loss / float((labels != -100).sum())
    loss.backward()
    total = float(group.all_reduce(loss.detach().clone()).wait())
    return total, {name: (param.tp_layout, _summed(param)) for name, param in model.named_parameters()}


def _summed(param: Any) -> np.ndarray:
    from paddlenlp.parallel.topology import topology

    mesh, grad = topology(), topology().sequence.group.all_reduce(param.grad.clone()).wait()
    if mesh.sequence_parallel and param.partial_grad == "sequence":
        grad = mesh.tp.group.all_reduce(grad).wait()
    return grad.numpy()
