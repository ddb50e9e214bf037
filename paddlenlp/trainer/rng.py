"""Random generators of Python, NumPy and Paddle: seeding, and their states as JSON.

A state is plain numbers and text, so that no code is stored, and continues bitwise in another process.
"""

from __future__ import annotations

import random
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np

from paddlenlp.parallel.dropout import seed_streams, set_stream_states, stream_states
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger


class Seeds(NamedTuple):
    """Seeds of one rank.

    Attributes:
        world: for what all ranks of a tensor-parallel group draw alike.
        local: for what each of them draws for itself.
        host: for Python and NumPy.
    """

    world: int
    local: int
    host: int


def rank_seeds(seed: int, ranks: Dict[str, int], sizes: Dict[str, int]) -> Seeds:
    """The seeds of a rank at position `ranks` in a mesh of `sizes`.

    Axes are "dp", "pp", "sharding", "sep" and "mp"; one that is not given has rank 0 of 1. The formula is the
    reference's: data-parallel and pipeline ranks differ in `world`, tensor-parallel ranks only in `local`.
    """
    stride = sizes.get("mp", 1)
    world, total = seed, 1
    for axis in ("sep", "pp", "dp", "sharding"):
        world += ranks.get(axis, 0) * stride
        stride *= sizes.get(axis, 1)
    for axis in ("mp", "sep", "pp", "dp", "sharding"):
        total *= sizes.get(axis, 1)
    return Seeds(world, world + total + ranks.get("mp", 0), seed + 100 * ranks.get("pp", 0))


def set_seed(seed: int, ranks: Optional[Dict[str, int]] = None, sizes: Optional[Dict[str, int]] = None) -> Seeds:
    """Seed Python, NumPy and Paddle for one rank (by default of one process), log the seeds and return them."""
    import paddle

    seeds = rank_seeds(seed, ranks or {}, sizes or {})
    random.seed(seeds.host)
    np.random.seed(seeds.host % 2**32)
    paddle.seed(seeds.world)
    logger.info(
        f"The global seed is set to {seeds.world}, local seed is set to {seeds.local} "
        f"and random seed is set to {seeds.host}."
    )
    return seeds


def seed_rank(args: Any) -> Seeds:
    """`set_seed` for this process's place in the mesh of `args`, and the seeds of dropout."""
    mesh = args.mesh
    place = mesh.place(args.process_index)
    axes = {"mp": "tp", "sep": "sequence", "pp": "pp", "dp": "dp", "sharding": "sharding"}
    ranks = {name: place[axis] for name, axis in axes.items()}
    seeds = set_seed(args.seed, ranks, {name: getattr(mesh, axis) for name, axis in axes.items()})
    seed_streams(seeds.world, seeds.local)
    return seeds


def remember_rng() -> Callable[[], None]:
    """Remember where all generators stand; what it returns puts them back there. It takes a twentieth of a millisecond,
    a fifth of what `rng_state` takes."""
    import paddle

    python, numpy = random.getstate(), np.random.get_state()
    devices, streams = _paddle_states(), stream_states()

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(numpy)
        for kind, states in devices.items():
            paddle.set_rng_state(states, device=kind)
        set_stream_states(streams)

    return put_back


def rng_state() -> Dict[str, Any]:
    """The states of all generators, as numbers and text, for `set_rng_state` in this or another process."""
    version, words, gauss = random.getstate()
    mersenne: Any = np.random.get_state(legacy=True)
    name, keys, position, has_gauss, cached = mersenne
    return {
        "python": {"version": version, "words": _text(words), "gauss": gauss},
        "numpy": {
            "name": name,
            "keys": _text(keys.tolist()),
            "position": int(position),
            "has_gauss": int(has_gauss),
            "cached_gauss": float(cached),
        },
        "paddle": {kind: [_describe(state) for state in states] for kind, states in _paddle_states().items()},
        "dropout": {stream: [_describe(state) for state in states] for stream, states in stream_states().items()},
    }


def set_rng_state(state: Dict[str, Any]) -> None:
    """Continue all generators from what `rng_state` returned.

    A state taken on another kind of device (a GPU's on a CPU) has no counterpart here: that generator keeps its
    present state and a warning says so.

    Raises:
        UsageError: `state` is not one that `rng_state` returns.
    """
    try:
        python, numpy, saved = state["python"], state["numpy"], state["paddle"]
        random.setstate((python["version"], tuple(_numbers(python["words"])), python["gauss"]))
        keys = np.array(_numbers(numpy["keys"]), dtype=np.uint32)
        np.random.set_state((numpy["name"], keys, numpy["position"], numpy["has_gauss"], numpy["cached_gauss"]))
        _restore_paddle(saved)
        _restore_streams(state.get("dropout", {}))
    except (LookupError, TypeError, ValueError) as error:
        raise UsageError(
            f"random generators: not a state that rng_state returned ({error!r}). The checkpoint's rng_state.json was "
            "changed; resume from another checkpoint."
        ) from error


def _restore_paddle(saved: Dict[str, List[Dict[str, Any]]]) -> None:
    import paddle

    for kind, states in _paddle_states().items():
        wanted = saved.get(kind, [])
        if len(wanted) != len(states):
            logger.warning(
                f"The checkpoint holds states of {len(wanted)} {kind} generator(s), this machine has {len(states)}: "
                f"the {kind} generators are not restored, so dropout draws other numbers than an uninterrupted run."
            )
            continue
        paddle.set_rng_state([_rebuild(*pair) for pair in zip(states, wanted)], device=kind)


def _restore_streams(saved: Dict[str, List[Dict[str, Any]]]) -> None:
    """Those streams of dropout that there are both here and in the checkpoint: tensor-parallel ranks have them."""
    own = stream_states()
    alike = {stream: states for stream, states in own.items() if len(saved.get(stream, [])) == len(states)}
    set_stream_states({s: [_rebuild(*pair) for pair in zip(states, saved[s])] for s, states in alike.items()})


def _paddle_states() -> Dict[str, List[Any]]:
    """Kind of device -> states of its generators: the CPU's, and those of the device in use."""
    import paddle

    kinds = dict.fromkeys(["cpu", paddle.device.get_device().partition(":")[0]])
    return {kind: paddle.get_rng_state(device=kind) for kind in kinds}


def _describe(state: Any) -> Dict[str, Any]:
    """A Paddle generator's state; `engine` is the text of the CPU's Mersenne twister."""
    device, seed, offset, engine = state.__getstate__()
    return {"device": device, "seed": seed, "offset": offset, "engine": bytes(engine).decode("ascii")}


def _rebuild(own: Any, entry: Dict[str, Any]) -> Any:
    """The state that `entry` describes, for the generator whose present state is `own`."""
    found, expected = len(_numbers(entry["engine"])), len(_numbers(_describe(own)["engine"]))
    if found != expected:
        raise ValueError(f"the engine has {found} numbers, expected {expected}")
    kind: Any = type(own)
    state = kind.__new__(kind)
    state.__setstate__((entry["device"], entry["seed"], entry["offset"], list(entry["engine"].encode("ascii"))))
    return state


def _text(numbers: Sequence[int]) -> str:
    return " ".join(map(str, numbers))


def _numbers(text: str) -> List[int]:
    return [int(word) for word in text.split()]
