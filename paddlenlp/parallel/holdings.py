"""What of a model's tensors this rank holds and is to give to files: each element once over the ranks that have it."""

from __future__ import annotations

from functools import partial
from typing import Any, Callable, Iterable, Iterator, List, Optional, Set

from paddle import Tensor

from .catalogue import Part, Whole, whole_of
from .gradients import Piece
from .objects import everyones
from .topology import topology


def weight_parts(model: Any) -> List[Part]:
    """The parameters of `model` in their storage dtype.

    Where parameters are empty between uses (sharding stage 3) they are taken from what the optimizer updates, which
    always is what the parameter would hold, or what it is rounded from (a part is in any type).
    """
    gradients: Any = getattr(model, "gradients", None)
    empty = gradients is not None and not gradients.reads_whole
    pieces = {piece.name: piece for piece in gradients.pieces} if empty else {}
    frozen = set(gradients.frozen) if empty else set()
    parts = []
    for name, param in model.named_parameters():
        if empty and name not in frozen:
            stored = partial(_weight, pieces[name]) if name in pieces else None
            parts += _piece_parts(pieces.get(name), whole_of(name, param), stored)
        elif _gives(param, shared=True):
            parts.append(Part(whole_of(name, param), 0, param.size, partial(_same, param)))
    return parts


def piece_parts(
    pieces: Iterable[Piece], fetch: Callable[[Piece], Tensor], suffix: str = "", dtype: str = "float32"
) -> List[Part]:
    """Tensors that have the shape of a parameter and are cut like it, of every piece.

    Args:
        fetch: gives the elements of a piece.
        suffix: what is added to the name of the parameter.
    """
    parts = []
    for piece in pieces:
        parts += _piece_parts(piece, whole_of(f"{piece.name}{suffix}", piece.param, dtype), partial(fetch, piece))
    return parts


def scalar_parts(pieces: Iterable[Piece], fetch: Callable[[Piece], Tensor], suffix: str) -> List[Part]:
    """float32 tensors [1], one for each parameter, that every rank with a piece of it holds."""
    own = [piece for piece in pieces if piece.start == 0 < piece.stop and _gives(piece.param)]
    return [Part(Whole(f"{p.name}{suffix}", (1,), (1,), "float32"), 0, 1, partial(fetch, p)) for p in own]


def stage_order(model: Any) -> Callable[[str], Any]:
    """How names are ordered in the files of `model`: by stage, then by name, numbers by value."""
    stages = getattr(type(model), "stages", None)
    places = {name: place for place, (name, _) in enumerate(stages(model.config))} if stages else {}

    def place(name: str) -> Any:
        paths = name.split(".")
        before = (".".join(paths[:length]) for length in range(len(paths), 0, -1))
        return next((places[path] for path in before if path in places), len(places)), [_number(p) for p in paths]

    return place


def names_everywhere(names: Iterable[str]) -> Set[str]:
    """The names on all ranks among which one model is dealt out, of which this rank has `names`."""
    return set(lines_everywhere(names))


def lines_everywhere(lines: Iterable[str]) -> List[str]:
    """The different lines of all ranks among which one model is dealt out, in their order."""
    for axis in (topology().ep, topology().pp):
        lines = dict.fromkeys(line for found in everyones(list(lines), axis) for line in found)
    return list(lines)


def at_hand(model: Any) -> Iterator[List[str]]:
    """The names of the parameters of `model`, some at a time, whose values can be read and set meanwhile."""
    names = {id(param): name for name, param in model.named_parameters()}
    if model.gradients.reads_whole:
        yield list(names.values())
        return
    for stage in model.order:
        # Of a parameter that a stage borrows, such as the table of a tied head, the lender may be on another rank.
        own = [names.pop(id(param)) for param in model.parameters_of(stage) if id(param) in names]
        with model.gradients.whole(stage):
            yield own


def _piece_parts(piece: Optional[Piece], whole: Whole, fetch: Any) -> List[Part]:
    if piece is None or piece.start == piece.stop or not _gives(piece.param):
        return []
    return [Part(whole, piece.start, piece.stop, fetch)]


def _gives(param: Tensor, shared: bool = False) -> bool:
    """Whether this rank is the one to give `param`: the first of those that hold the same.

    Args:
        shared: the ranks along `sharding` hold the same too, not each its piece.
    """
    mesh = topology()
    expert = getattr(param, "expert", False)
    replica, sharding = (mesh.expert_replica, mesh.expert_sharding) if expert else (mesh.replica, mesh.sharding)
    layout = getattr(param, "tp_layout", None)
    alike = mesh.tp.rank > 0 and (layout is None or layout.axis is None)
    return replica.is_first and (sharding.is_first or not shared) and not alike


def _same(tensor: Tensor) -> Tensor:
    return tensor


def _weight(piece: Piece) -> Tensor:
    return piece.weight


def _number(path: str) -> Any:
    """Digits sort by value, before words."""
    return (0, int(path), "") if path.isdigit() else (1, 0, path)
