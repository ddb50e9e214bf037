"""What of a run goes into a checkpoint, and how a run is put back from one; `checkpoint` knows how it is stored."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Union

from paddlenlp.trainer.checkpoint import Checkpoint, latest_checkpoint, verify
from paddlenlp.trainer.rng import rng_state, set_rng_state
from paddlenlp.trainer.state import TrainerState
from paddlenlp.transformers.conversion_utils import StoredWeights, load_weights
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

TRAINER_STATE = "trainer_state.json"
SCHEDULER = "scheduler.json"
RNG_STATE = "rng_state.json"
SCALER = "scaler.json"


def find_resume(args: Any, request: Union[None, bool, str, Path]) -> Optional[Path]:
    """The checkpoint to go on from.

    Args:
        request: a folder; True: the newest valid one of output_dir, which must be there; False: none; None: the folder
            that `args.resume_from_checkpoint` names, else the newest valid one unless output_dir is to be overwritten.

    Raises:
        UsageError: the folder asked for is not a whole checkpoint, or there is none.
    """
    if request is None:
        request = args.resume_from_checkpoint or (False if args.effective_overwrite_output_dir else None)
    if request is False:
        return None
    if isinstance(request, (str, Path)):
        return checked(Path(request))
    found = latest_checkpoint(args.output_dir)
    if found is None and request:
        raise UsageError(f"No valid checkpoint to resume from in {args.output_dir}. Leave out resume_from_checkpoint.")
    return None if found is None else Path(found)


def checked(folder: Path) -> Path:
    """`folder`, if it is a whole checkpoint.

    Raises:
        UsageError: it is not; everything wrong is listed.
    """
    problems = verify(folder)
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise UsageError(f"{folder} is not a whole checkpoint:\n{listed}\nResume from another one.")
    return folder


def tensors_to_save(model: Any, optimizer: Any, args: Any) -> Dict[str, Mapping[str, Any]]:
    """Stem -> tensors, as `args.unified_checkpoint_options` and `ignore_save_lr_and_optim` have it."""
    words = args.unified_checkpoint_options
    weights, masters = dict(model.named_parameters()), optimizer.master_tensors()
    if masters and "skip_save_model_weight" in words:
        parts: Dict[str, Mapping[str, Any]] = {"model": {**weights, **masters}}
    else:
        parts = {"model": weights}
    if args.ignore_save_lr_and_optim:
        return parts
    if masters and not words & {"skip_save_model_weight", "remove_master_weight"}:
        parts["master_weights"] = masters
    return {**parts, "optimizer": optimizer.state_tensors()}


def states_to_save(state: TrainerState, optimizer: Any, lr_scheduler: Any, args: Any) -> Dict[str, Any]:
    """File name -> JSON-able content."""
    states: Dict[str, Any] = {TRAINER_STATE: state.to_dict(), RNG_STATE: [rng_state()]}
    if not args.ignore_save_lr_and_optim:
        states[SCHEDULER] = lr_scheduler.state_dict()
        if optimizer.scaler is not None:
            states[SCALER] = optimizer.scaler.state_dict()
    return states


def load_model(model: Any, folder: Path) -> None:
    """Set the weights from a checkpoint.

    Raises:
        UsageError: they are those of another model.
    """
    try:
        load_weights(model, StoredWeights(folder))
    except UsageError as error:
        raise UsageError(
            f"Can't resume from {folder}: {error}\n"
            "To train this model from the start, give another output_dir or set overwrite_output_dir."
        ) from None


def load_state(folder: Path, new: TrainerState) -> TrainerState:
    """The position and history that the checkpoint holds, with the length and place of the present run (`new`)."""
    present = ("max_steps", "num_train_epochs", "is_local_process_zero", "is_world_process_zero")
    saved = Checkpoint(folder).state(TRAINER_STATE)
    return TrainerState.from_dict({**saved, **{name: getattr(new, name) for name in present}})


def load_optimizer(model: Any, optimizer: Any, lr_scheduler: Any, folder: Path, args: Any) -> None:
    """Put optimizer, learning rate and loss scale where the checkpoint has them.

    The learning rate's curve is that of the present arguments; the checkpoint gives the position on it.

    Raises:
        UsageError: the checkpoint was saved without them, or those of another model.
    """
    if args.ignore_load_lr_and_optim:
        logger.info("ignore_load_lr_and_optim is set: optimizer state and learning rate start anew")
        if optimizer.master_tensors():
            optimizer.load_master_tensors(dict(model.named_parameters()))
        return
    saved = Checkpoint(folder)
    if not saved.has("optimizer"):
        raise UsageError(
            f"{folder} holds no optimizer state (it was saved with ignore_save_lr_and_optim), so the run can't go on "
            "exactly. Set ignore_load_lr_and_optim to go on from its weights alone."
        )
    _load_masters(model, optimizer, saved, args.unified_checkpoint_options)
    optimizer.load_state_tensors(saved.tensors("optimizer"))
    lr_scheduler.set_state_dict(saved.state(SCHEDULER))
    lr_scheduler.step(lr_scheduler.last_epoch)
    if optimizer.scaler is not None and (folder / SCALER).exists():
        optimizer.scaler.load_state_dict(saved.state(SCALER))


def _load_masters(model: Any, optimizer: Any, saved: Checkpoint, words: Iterable[str]) -> None:
    if saved.has("master_weights"):
        optimizer.load_master_tensors(saved.tensors("master_weights"))
    elif not optimizer.master_tensors():
        return
    elif StoredWeights(saved.folder).stored_dtype() == "float32":
        optimizer.load_master_tensors(saved.tensors("model"))
    elif set(words) & {"master_weight_compatible", "remove_master_weight"}:
        optimizer.load_master_tensors(dict(model.named_parameters()))
    else:
        raise UsageError(
            f"{saved.folder} holds no float32 master weights, which this low-precision run needs. Set "
            "unified_checkpoint_config to master_weight_compatible to make them from the weights."
        )


def load_rng(folder: Path, rank: int) -> None:
    """Set the random number generators of this rank as they were."""
    states: List[Any] = Checkpoint(folder).state(RNG_STATE)
    if rank < len(states):
        set_rng_state(states[rank])
    else:
        logger.warning(f"{folder} holds no random number state of rank {rank}: dropout draws other numbers.")


def copy_files(files: Iterable[Union[str, Path]], folder: Path) -> None:
    """Copy files into a folder; one that is there already stays as it is."""
    for file in map(Path, files):
        if file.exists() and file.resolve().parent != folder.resolve():
            shutil.copyfile(file, folder / file.name)
