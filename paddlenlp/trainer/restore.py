"""How a run is put back from a checkpoint; `snapshot` says what is in one."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional, Union

from paddlenlp.checkpoint.folder import Checkpoint, checkpoint_folders, restore_replaced, set_aside
from paddlenlp.checkpoint.manifest import MANIFEST, verify
from paddlenlp.parallel.agree import all_do
from paddlenlp.parallel.errand import first_does
from paddlenlp.parallel.objects import everyones, from_first
from paddlenlp.parallel.topology import topology
from paddlenlp.trainer.foreign_checkpoint import NOT_READ, indexes, is_foreign
from paddlenlp.trainer.piece_state import load_masters, load_states, masters_from_weights
from paddlenlp.trainer.rng import set_rng_state
from paddlenlp.trainer.saved_optimizer import open_optimizer
from paddlenlp.trainer.snapshot import RNG_STATE, SCALER, SCHEDULER, TRAINER_STATE, has_masters
from paddlenlp.trainer.state import TrainerState
from paddlenlp.transformers.conversion_utils import StoredWeights, load_weights
from paddlenlp.transformers.optimization import build_lr_scheduler
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import sha256_file
from paddlenlp.utils.log import logger
from paddlenlp.utils.tensor_files import TensorFiles


def find_resume(args: Any, request: Union[None, bool, str, Path]) -> Optional[Path]:
    """The checkpoint to go on from, the same on all ranks, which call this together and verify it together.

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
        check(Path(request))
        return Path(request)
    found = _newest_whole(Path(args.output_dir))
    if found is None and request:
        raise UsageError(f"No valid checkpoint to resume from in {args.output_dir}. Leave out resume_from_checkpoint.")
    return found


def _newest_whole(output_dir: Path) -> Optional[Path]:
    """The whole checkpoint with the highest step. Those above it that are not whole are set aside, and every rank says
    what is wrong with them."""
    found, rejected = None, []
    for name in first_does(lambda: _candidates(output_dir)):
        problems = _problems(output_dir / name)
        if not problems:
            found = output_dir / name
            break
        rejected.append((output_dir / name, problems))
        if topology().world.rank:  # the first rank says it when it sets the folder aside
            logger.warning(f"{output_dir / name} is not a whole checkpoint ({'; '.join(problems)})")
    first_does(lambda: [str(set_aside(*one)) for one in rejected])
    return found


def _candidates(output_dir: Path) -> List[str]:
    if not output_dir.is_dir():
        return []
    restore_replaced(output_dir)
    return [folder.name for folder in reversed(checkpoint_folders(output_dir))]


def check(folder: Path) -> None:
    """Refuse a folder that is not a whole checkpoint. All ranks call this; each reads and hashes some of the files.

    A checkpoint that PaddleNLP wrote has no hashes: it is taken as it is, and a warning says so.

    Raises:
        UsageError: it is not, or a rank does not see it; everything wrong is listed.
    """
    problems = _problems(folder)
    if problems and is_foreign(folder):
        logger.warning(f"{folder} has no {MANIFEST}, so whether it is whole cannot be verified. {NOT_READ}")
        return
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise UsageError(f"{folder} is not a whole checkpoint:\n{listed}\nResume from another one.")


def _problems(folder: Path) -> List[str]:
    """What is wrong with a checkpoint, found by all ranks together and told to all."""
    seen_by_all(folder)
    world = topology().world
    own = all_do(lambda: verify(folder, world.rank, world.size))
    return list(dict.fromkeys(problem for problems in everyones(own) for problem in problems))


def seen_by_all(folder: Path) -> None:
    """Find out whether every rank sees the checkpoint `folder` that rank 0 chose; all ranks call this.

    Raises:
        UsageError: one does not, or sees another one there; on all ranks, with the host and the path.
    """
    own = _fingerprint(folder)
    expected = from_first(own)

    def compare() -> None:
        if own != expected:
            found = "nothing" if own is None else "another checkpoint"
            raise UsageError(
                f"Rank {topology().world.rank} on host {socket.gethostname()} sees {found} at {folder.absolute()}, "
                "where rank 0 has the checkpoint to go on from: output_dir must be on a file system all machines see."
            )

    all_do(compare)


def _fingerprint(folder: Path) -> Optional[str]:
    there = [path for path in (folder / MANIFEST, *indexes(folder)) if path.is_file()]
    return sha256_file(there[0]) if there else None


def load_model(model: Any, folder: Path) -> None:
    """Set the weights from a checkpoint; every rank reads its own.

    Raises:
        UsageError: they are those of another model.
    """
    try:
        load_weights(model, all_do(lambda: _weights(folder)))
    except UsageError as error:
        raise UsageError(
            f"Can't resume from {folder}: {error}\n"
            "To train this model from the start, give another output_dir or set overwrite_output_dir."
        ) from None


def _weights(folder: Path) -> StoredWeights:
    """Those of the model; where only the float32 masters were saved, these."""
    saved = Checkpoint(folder)
    only_masters = saved.has("master_weights") and not saved.has("model")
    return StoredWeights(folder, "master_weights" if only_masters else "model")


def load_state(folder: Path, new: TrainerState) -> TrainerState:
    """The position and history that the checkpoint holds, with the length and place of the present run (`new`).

    Raises:
        UsageError: it holds something else.
    """
    present = ("max_steps", "num_train_epochs", "is_local_process_zero", "is_world_process_zero")
    saved = _object(folder, TRAINER_STATE)
    return TrainerState.from_dict({**saved, **{name: getattr(new, name) for name in present}})


def _object(folder: Path, name: str) -> Dict[str, Any]:
    found = Checkpoint(folder).state(name)
    if not isinstance(found, dict):
        raise UsageError(f"{folder / name}: expected a JSON object, found {type(found).__name__}.")
    return found


def load_optimizer(model: Any, optimizer: Any, lr_scheduler: Any, folder: Path, args: Any) -> None:
    """Put optimizer, learning rate and loss scale where the checkpoint has them.

    The learning rate's curve is that of the present arguments; the checkpoint gives the position on it.

    Raises:
        UsageError: the checkpoint was saved without them, or those of another model.
    """
    if args.ignore_load_lr_and_optim:
        logger.info("ignore_load_lr_and_optim is set: optimizer state and learning rate start anew")
        masters_from_weights(model)
        return
    saved = Checkpoint(folder)
    if not saved.has("optimizer"):
        raise UsageError(
            f"{folder} holds no optimizer state (it was saved with ignore_save_lr_and_optim), so the run can't go on "
            "exactly. Set ignore_load_lr_and_optim to go on from its weights alone."
        )
    states, masters = all_do(lambda: open_optimizer(folder, model))
    _load_masters(model, optimizer, saved, masters, args.unified_checkpoint_options)
    load_states(model, optimizer, states)
    if is_foreign(folder):
        done = load_state(folder, TrainerState()).global_step
        lr_scheduler.step(build_lr_scheduler(args).last_epoch + done)
        return
    lr_scheduler.set_state_dict(_object(folder, SCHEDULER))
    lr_scheduler.step(lr_scheduler.last_epoch)
    if optimizer.scaler is not None and (folder / SCALER).exists():
        optimizer.scaler.load_state_dict(_object(folder, SCALER))


def _load_masters(
    model: Any, optimizer: Any, saved: Checkpoint, masters: Optional[TensorFiles], words: Iterable[str]
) -> None:
    if masters is not None:
        load_masters(model, optimizer, masters)
    elif not has_masters(optimizer):
        return
    elif (weights := StoredWeights(saved.folder)).stored_dtype() == "float32":
        load_masters(model, optimizer, weights)
    elif set(words) & {"master_weight_compatible", "remove_master_weight"}:
        masters_from_weights(model)
    else:
        raise UsageError(
            f"{saved.folder} holds no float32 master weights, which this low-precision run needs. Set "
            "unified_checkpoint_config to master_weight_compatible to make them from the weights."
        )


def load_rng(folder: Path, rank: int) -> None:
    """Set the random number generators of this rank as they were, if the job is laid out over ranks as it was.

    Else ranks that must draw alike might get different states.
    """
    if is_foreign(folder):
        return
    states: List[Any] = Checkpoint(folder).state(RNG_STATE)
    if not isinstance(states, list) or not all(isinstance(state, dict) for state in states):
        raise UsageError(f"{folder / RNG_STATE}: expected the states of each rank's generators.")
    mesh = str(topology().mesh)
    saved = states[0].get("mesh", mesh) if states else ""
    if saved == mesh and rank < len(states):
        set_rng_state(states[rank])
    elif rank == 0:
        logger.warning(
            f"{folder} holds the random number states of another layout ({saved}; this job is {mesh}), which are not "
            "used: dropout draws other numbers than in a run that was not interrupted."
        )
