"""What of a run goes into a checkpoint; `restore` puts a run back from one, `checkpoint` knows how it is stored."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any, Dict, Iterable, List, Sequence, Union

from paddlenlp.checkpoint.shards import Shards
from paddlenlp.parallel.catalogue import Part
from paddlenlp.parallel.group import Group
from paddlenlp.parallel.holdings import piece_parts, scalar_parts, stage_order, weight_parts
from paddlenlp.parallel.objects import at_first, everyones
from paddlenlp.parallel.topology import topology
from paddlenlp.trainer.optimizer import STATE_KEYS
from paddlenlp.trainer.piece_state import is_moment
from paddlenlp.trainer.rng import rng_state
from paddlenlp.trainer.state import TrainerState

TRAINER_STATE = "trainer_state.json"
SCHEDULER = "scheduler.json"
RNG_STATE = "rng_state.json"
SCALER = "scaler.json"


def shards_to_save(model: Any, optimizer: Any, args: Any, group: Group) -> Shards:
    """The tensors of a checkpoint, as `args.unified_checkpoint_options` and `ignore_save_lr_and_optim` have it.

    Stems are "model", "master_weights" and "optimizer". All ranks of the job call this; see `Shards`.
    """
    words = args.unified_checkpoint_options
    masters = _trained_weights(optimizer) if has_masters(optimizer) else []
    weights = weight_parts(model)
    if masters and "skip_save_model_weight" in words:
        frozen = set(model.gradients.frozen)
        weights = [part for part in weights if part.whole.name in frozen] + masters
    groups: Dict[str, Sequence[Part]] = {"model": weights}
    if not args.ignore_save_lr_and_optim:
        if masters and not words & {"skip_save_model_weight", "remove_master_weight"}:
            groups["master_weights"] = masters
        groups["optimizer"] = _optimizer_parts(optimizer)
    apart = ("optimizer", "master_weights") if "ignore_merge_optimizer" in words else ()
    return Shards(groups, stage_order(model), topology().mesh, group, apart)


def has_masters(optimizer: Any) -> bool:
    """Whether some rank of the job updates float32 masters of low-precision parameters; all ranks call this."""
    return any(everyones(any(piece.master for piece in optimizer.pieces)))


def _trained_weights(optimizer: Any) -> List[Part]:
    """In float32; parameters that are float32 themselves are among them, as in the reference."""
    return piece_parts(optimizer.pieces, lambda piece: piece.weight)


def _optimizer_parts(optimizer: Any) -> List[Part]:
    parts = []
    for key in STATE_KEYS:
        make = piece_parts if is_moment(key) else scalar_parts
        parts += make(optimizer.pieces, partial(_state, optimizer, key), f"/{key}")
    return parts


def _state(optimizer: Any, key: str, piece: Any) -> Any:
    return optimizer.states(piece)[key]


def states_to_save(state: TrainerState, optimizer: Any, lr_scheduler: Any, args: Any) -> Dict[str, Any]:
    """File name -> JSON-able content, for rank 0 to write; all ranks call this."""
    random = {"mesh": str(topology().mesh), **rng_state()}
    states: Dict[str, Any] = {TRAINER_STATE: state.to_dict(), RNG_STATE: at_first(random)}
    if not args.ignore_save_lr_and_optim:
        states[SCHEDULER] = lr_scheduler.state_dict()
        if optimizer.scaler is not None:
            states[SCALER] = optimizer.scaler.state_dict()
    return states


def copy_files(files: Iterable[Union[str, Path]], folder: Path) -> None:
    """Copy files into a folder; one that is there already stays as it is."""
    for file in map(Path, files):
        if file.exists() and file.resolve().parent != folder.resolve():
            shutil.copyfile(file, folder / file.name)
