"""Where in a step's numbers something is not finite: which weight or gradient, on which rank, in which micro-batch."""

from __future__ import annotations

import hashlib
import math
from typing import Any, Callable, Dict, Iterable, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import paddle
from paddle import Tensor

from paddlenlp.parallel.holdings import stage_order
from paddlenlp.parallel.objects import everyones
from paddlenlp.parallel.topology import topology


class Finding(NamedTuple):
    """What all ranks together found out about a bad step; the same on all of them.

    Attributes:
        reason: in words.
        loss: of rank 0.
        tensor: the first bad tensor: `kind` ("weight" or "gradient"), `name`, `rank`, and how many of the `tensors` of
            that rank and kind are `bad`; None if all are finite. Weights come before gradients, since they spoil all of
            them. Of weights the first is the one that the forward pass meets first, of gradients the one that the
            backward pass meets first, which is the last in the model.
        micro_batches: those with a loss that is not finite: `micro_batch` (from 0), `rank` (the first that found it)
            and `data_rank` (which share of the samples it read).
        samples: SHA-256 of the token ids and labels that the step read, in the order of the data, however they were
            shared out.
    """

    reason: str
    loss: float
    tensor: Optional[Dict[str, Any]]
    micro_batches: List[Dict[str, int]]
    samples: str


def examine(model: Any, reason: str, loss: float, micro_batches: Sequence[Any]) -> Finding:
    """Look into a step whose gradients are still there; all ranks call this together.

    Args:
        model: its `gradients` are those of the step, its `micro_losses` the losses.
        reason: why this rank finds the step bad; "" if it does not.
        micro_batches: what this rank read.
    """
    place = topology().data.rank
    told = {
        "reason": reason,
        "loss": _text(loss),
        "weight": _first_bad(model, _weights(model), last=False),
        "gradient": _first_bad(model, _gradients(model), last=True),
        "micro": [number for number, value in enumerate(losses_of(model)) if not math.isfinite(value)],
        "data": [place, [_digests(batch) for batch in micro_batches]],
    }
    all_told: List[Dict[str, Any]] = everyones(told)
    reasons = [rank["reason"] for rank in all_told if rank["reason"]]
    return Finding(
        reason=reasons[0] if reasons else "",
        loss=float(all_told[0]["loss"]),
        tensor=_first_of(model, all_told),
        micro_batches=_bad_micro_batches(all_told),
        samples=_digest_of_all([rank["data"] for rank in all_told]),
    )


def losses_of(model: Any) -> List[float]:
    """The losses of the micro-batches of the last step, as far as this rank has them (the end of a pipeline has)."""
    return [float(loss) for loss in getattr(model, "micro_losses", ())]


def samples_digest(micro_batches: Sequence[Any]) -> str:
    """`Finding.samples` of what all ranks read; all ranks call this together."""
    return _digest_of_all(everyones([topology().data.rank, [_digests(batch) for batch in micro_batches]]))


# ---- tensors -----------------------------------------------------------------------------------------------------


def _weights(model: Any) -> Iterator[Tuple[str, Optional[Tensor]]]:
    """What the optimizer updates, and the parameters themselves as far as they are there between uses."""
    for piece in model.gradients.pieces:
        yield piece.name, piece.weight
    trained_there, frozen = model.gradients.reads_whole, set(model.gradients.frozen)
    for name, param in model.named_parameters():
        if trained_there or name in frozen:
            yield name, param


def _gradients(model: Any) -> Iterator[Tuple[str, Optional[Tensor]]]:
    for piece in model.gradients.pieces:
        yield piece.name, model.gradients.gradient(piece)


def _first_bad(model: Any, tensors: Iterable[Tuple[str, Optional[Tensor]]], last: bool) -> Optional[List[Any]]:
    """[name, how many are bad, of how many] of the first bad tensor in the order of the model, or of the last."""
    verdicts: Dict[str, bool] = {}
    for name, tensor in tensors:
        if tensor is not None:
            verdicts[name] = verdicts.get(name, False) or not is_finite(tensor)
    bad = [name for name, is_bad in verdicts.items() if is_bad]
    return [_chosen(model, bad, last), len(bad), len(verdicts)] if bad else None


def _chosen(model: Any, names: Iterable[str], last: bool) -> str:
    order: Callable[[str], Any] = stage_order(model)
    return sorted(names, key=order)[-1 if last else 0]


def _first_of(model: Any, all_told: List[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    for kind, last in (("weight", False), ("gradient", True)):
        found = {rank: told[kind] for rank, told in enumerate(all_told) if told[kind]}
        if found:
            name = _chosen(model, {entry[0] for entry in found.values()}, last)
            rank = next(rank for rank, entry in found.items() if entry[0] == name)
            return {"kind": kind, "name": name, "rank": rank, "bad": found[rank][1], "tensors": found[rank][2]}
    return None


def is_finite(tensor: Tensor) -> bool:
    """Whether no element is infinite or not a number; waits for the device."""
    if tensor.size == 0:
        return True
    return bool(paddle.isfinite(tensor.detach().astype("float32")).all())


# ---- micro-batches -----------------------------------------------------------------------------------------------


def _bad_micro_batches(all_told: List[Dict[str, Any]]) -> List[Dict[str, int]]:
    found: Dict[Tuple[int, int], int] = {}
    for rank, told in enumerate(all_told):
        for number in told["micro"]:
            found.setdefault((number, told["data"][0]), rank)
    return [
        {"micro_batch": number, "rank": rank, "data_rank": place} for (number, place), rank in sorted(found.items())
    ]


def _digests(batch: Any) -> List[str]:
    """Of each sample."""
    rows = zip(batch["input_ids"].numpy(), batch["labels"].numpy())
    return [hashlib.sha256(ids.tobytes() + labels.tobytes()).hexdigest() for ids, labels in rows]


def _digest_of_all(told: List[List[Any]]) -> str:
    """One digest of [place in the data, digests of its micro-batches] of all ranks, in the order of the data."""
    by_place: Dict[int, List[List[str]]] = {place: digests for place, digests in reversed(told)}
    places = sorted(by_place)
    in_order = [
        digest for number in range(len(by_place[places[0]])) for place in places for digest in by_place[place][number]
    ]
    return hashlib.sha256("".join(in_order).encode()).hexdigest()


def _text(number: float) -> str:
    """JSON has no infinity; `float` reads this back."""
    return repr(float(number))
