"""One rank of a launch that builds tiny models in many layouts, and counts the bytes of what it holds."""

from __future__ import annotations

from typing import Any, Dict

from layouts import MODELS
from work_layouts import Run, micro_batches


def hold(payload: Dict[str, Any]) -> Dict[str, Any]:
    """Case "layout | model" -> kind -> bytes on this rank; see `_held`."""
    return {case: _held(Run(changes, *MODELS[case.split(" | ")[1]])) for case, changes in payload.items()}


def _held(run: Any) -> Dict[str, Any]:
    """Parameters and optimizer state when the run begins; gradients between micro batches, and when all are summed."""
    between = []
    found = {"parameters": _parameters(run), "masters": 0, "moments": 0}
    for piece in run.optimizer.pieces:
        found["masters"] += _bytes(piece.weight) if piece.master else 0
        found["moments"] += sum(map(_bytes, list(run.optimizer.states(piece).values())[:2]))
    run.model.train_batch(micro_batches(1, run.args), 1.0, lambda: between.append(_gradients(run)))
    found["final"], found["summed"] = _gradients(run), max(between, default=None)
    found["micro_batches"] = len(micro_batches(1, run.args))
    return found


def _parameters(run: Any) -> int:
    """Of the storage: that of buckets, or of parameters by themselves."""
    buckets = getattr(run.model.gradients, "_buckets", None)
    if buckets is None:
        return sum(map(_bytes, run.model.parameters()))
    frozen = sum(_bytes(param) for param in run.model.parameters() if param.stop_gradient)
    return frozen + sum(_bytes(bucket.own if bucket.flat is None else bucket.flat) for bucket in buckets)


def _gradients(run: Any) -> int:
    buckets = getattr(run.model.gradients, "_buckets", None)
    if buckets is None:
        grads = [param.grad for param in run.model.parameters() if param.grad is not None]
        return sum(map(_bytes, grads or run.model.gradients._sums._sums.values()))
    tensors = [x for bucket in buckets for x in (bucket.sum, bucket._gradients) if x is not None]
    return sum(map(_bytes, tensors))


def _bytes(x: Any) -> int:
    return x.size * x.element_size()


def counted(payload: Dict[str, Any]) -> Dict[str, Any]:
    """Case "layout | model" -> what `work_layouts.traffic` counts, and whether this rank has the head."""
    from work_layouts import traffic

    from paddlenlp.parallel import topology

    found = {}
    for layout, changes in payload["layouts"].items():
        for name, model in payload["models"].items():
            one = traffic({"layouts": {layout: changes}, "model": model})[layout]
            found[f"{layout} | {name}"] = {**one, "has head": topology().pp.is_last}
    return found
