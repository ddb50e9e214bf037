"""What to change where a run does not fit: the nearest layouts that do, the same global batch kept."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import combinations, product
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Tuple

from paddlenlp.utils.errors import UsageError

from .layout import Layout
from .speed_report import flags

Memory = Callable[[Layout], float]
"""Layout -> bytes that its fullest rank needs; infinity will do for more than there is room for."""

Seconds = Callable[[Layout], float]
"""Layout -> seconds of a step."""

Step = Tuple[str, Layout]
"""A changed layout, and what was changed."""

MOST = 3
"""Changes at once."""

ORDER = (None, "core_attn", "full_attn", "full")


class Near(NamedTuple):
    """A layout that fits.

    Attributes:
        layout: itself.
        changes: what is other than asked for.
        flags: what to write on the command line for it.
        bytes: that its fullest rank needs.
        seconds: of a step.
    """

    layout: Layout
    changes: Tuple[str, ...]
    flags: str
    bytes: float
    seconds: float


def nearest(
    config: Any,
    layout: Layout,
    room: float,
    memory: Memory,
    seconds: Seconds,
    wanted: int = 3,
    devices_per_node: int = 8,
) -> List[Near]:
    """The layouts with the fewest changes that fit into `room` bytes, of those with as many the fastest first.

    Args:
        config: of the model, for the sizes that degrees must divide.
        devices_per_node: tensor parallelism stays within a node.
    """
    found: List[Near] = []
    ways = _ways(config, layout, devices_per_node)
    for count in range(1, MOST + 1):
        level = sorted(_changed(layout, ways, count), key=lambda pair: seconds(pair[1]))
        for changes, other in level:
            if len(found) == wanted:
                return found
            if any(set(near.changes) < set(changes) for near in found):  # it does with less
                continue
            need = _need(memory, other)
            if need <= room:
                found.append(Near(other, changes, flags(other, layout), need, seconds(other)))
    return found


def _need(memory: Memory, layout: Layout) -> float:
    try:
        return memory(layout)
    except UsageError:  # it can't be cut so
        return float("inf")


Way = Callable[[Layout], Layout]


def _ways(config: Any, layout: Layout, devices_per_node: int) -> Dict[str, List[Tuple[str, Way]]]:
    """What can be turned -> the ways to turn it: what is said of each, and what it does."""
    mesh = layout.mesh
    ways: Dict[str, List[Tuple[str, Way]]] = {"micro": [], "recompute": [], "stage": [], "tp": [], "pp": [], "sp": []}
    for size in (n for n in range(1, layout.micro_batch) if layout.micro_batch % n == 0):
        ways["micro"].append((f"micro batch {layout.micro_batch} -> {size}", _smaller(layout.micro_batch // size)))
    place = ORDER.index(layout.recompute)
    for granularity in ORDER[place + 1 :]:
        ways["recompute"].append((f"recompute {granularity}", partial(_with, recompute=granularity)))
    for stage in range(layout.stage + 1, 4) if mesh.sharding > 1 else ():
        ways["stage"].append((f"sharding stage {stage}", partial(_with, stage=stage)))
    if mesh.sharding == 1 and mesh.dp > 1:
        for stage in (1, 2, 3):
            ways["stage"].append((f"sharding stage {stage} over {mesh.dp}", partial(_sharded, stage=stage)))
    for factor in (2, 4, 8):
        tp = mesh.tp * factor
        divides = config.num_attention_heads % tp == 0 and config.vocab_size % tp == 0
        if tp <= devices_per_node and divides:
            ways["tp"].append((f"tp {mesh.tp} -> {tp}", partial(_spread, axis="tp", factor=factor)))
        if mesh.pp * factor * layout.chunks <= config.num_hidden_layers:
            ways["pp"].append((f"pp {mesh.pp} -> {mesh.pp * factor}", partial(_spread, axis="pp", factor=factor)))
    if not layout.sequence_parallel and mesh.tp > 1:
        ways["sp"].append(("sequence parallel", partial(_with, sequence_parallel=True)))
    return ways


def _with(layout: Layout, **changes: Any) -> Layout:
    return layout.with_(**changes)


def _smaller(factor: int) -> Way:
    return lambda x: x.with_(micro_batch=x.micro_batch // factor, accumulation=x.accumulation * factor)


def _sharded(layout: Layout, stage: int) -> Layout:
    """Data-parallel ranks share the state."""
    mesh = replace(layout.mesh, dp=1, sharding=layout.mesh.dp * layout.mesh.sharding)
    return layout.with_(mesh=mesh, stage=stage)


def _spread(layout: Layout, axis: str, factor: int) -> Layout:
    """`factor` times as many ranks along an axis, taken from those that read different samples, each of which then
    reads more."""
    mesh = layout.mesh
    kind = "sharding" if mesh.sharding % factor == 0 else "dp"
    if getattr(mesh, kind) % factor:
        raise UsageError(f"{mesh} has no {factor} data-parallel ranks to spare")
    changes = {axis: getattr(mesh, axis) * factor, kind: getattr(mesh, kind) // factor}
    made = replace(mesh, **changes)
    if getattr(made, made.expert_axis) % made.ep:
        raise UsageError(f"{made} can't deal experts out over {made.ep} ranks")
    stage = layout.stage if made.sharding > 1 else 0
    return layout.with_(mesh=made, accumulation=layout.accumulation * factor, stage=stage)


def _changed(
    layout: Layout, ways: Dict[str, List[Tuple[str, Way]]], count: int
) -> Iterator[Tuple[Tuple[str, ...], Layout]]:
    """All layouts in which `count` things are turned."""
    for kinds in combinations([kind for kind in ways if ways[kind]], count):
        for chosen in product(*(ways[kind] for kind in kinds)):
            other = layout
            try:
                for _, way in chosen:
                    other = way(other)
            except UsageError:
                continue
            if other.chunks == 1 or other.accumulation % other.mesh.pp == 0:
                yield tuple(text for text, _ in chosen), other
