"""How large the checkpoints of a run will be, known before there is a model."""

from __future__ import annotations

from typing import Any, Dict, Tuple

from paddlenlp.checkpoint.space import checkpoint_bytes
from paddlenlp.trainer.optimizer import STATE_KEYS
from paddlenlp.trainer.piece_state import is_moment
from paddlenlp.utils.tensor_writer import LazyTensor

Group = Dict[str, LazyTensor]


def bytes_of_checkpoint(model: Any, args: Any) -> int:
    """Bytes that a checkpoint takes on disk, at most: what `trainer.snapshot.shards_to_save` comes to.

    Args:
        model: a `planning.abstract.AbstractModel`.
        args: TrainingArguments.
    """
    words = args.unified_checkpoint_options
    weights = {
        f"{stage.name}.{weight.name}": (weight, weight.dtype or args.dtype)
        for stage in model.stages
        for weight in stage.weights
    }
    trained = {name: weight for name, (weight, _) in weights.items() if weight.trained}
    wide = {name: _tensor(weight, "float32") for name, weight in trained.items()}
    has_masters = any(weights[name][1] != "float32" for name in trained)
    groups = {"model": {name: _tensor(weight, dtype) for name, (weight, dtype) in weights.items()}}
    if has_masters and "skip_save_model_weight" in words:
        groups["model"].update(wide)
    if not args.ignore_save_lr_and_optim:
        if has_masters and not words & {"skip_save_model_weight", "remove_master_weight"}:
            groups["master_weights"] = wide
        groups["optimizer"] = _states(trained)
    return checkpoint_bytes(groups)


def _states(trained: Dict[str, Any]) -> Group:
    return {
        f"{name}/{key}": _tensor(weight, "float32") if is_moment(key) else _lazy((_count(weight),), "float32")
        for name, weight in trained.items()
        for key in STATE_KEYS
    }


def _tensor(weight: Any, dtype: str) -> LazyTensor:
    """A parameter, those of all experts together."""
    return _lazy((_count(weight), *weight.shape), dtype)


def _count(weight: Any) -> int:
    return max(1, weight.experts)


def _lazy(shape: Tuple[int, ...], dtype: str) -> LazyTensor:
    return LazyTensor(shape, dtype, lambda: None)
