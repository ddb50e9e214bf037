"""How a run is put back from a checkpoint; `snapshot` says what is in one."""

from __future__ import annotations

import hashlib
import socket
from pathlib import Path
from typing import Any, Iterable, List, Optional, Union

from paddlenlp.checkpoint.folder import Checkpoint, latest_checkpoint, verify
from paddlenlp.checkpoint.manifest import MANIFEST
from paddlenlp.parallel.agree import all_do
from paddlenlp.parallel.objects import from_first
from paddlenlp.parallel.topology import topology
from paddlenlp.trainer.piece_state import load_masters, load_states, masters_from_weights
from paddlenlp.trainer.rng import set_rng_state
from paddlenlp.trainer.snapshot import RNG_STATE, SCALER, SCHEDULER, TRAINER_STATE, has_masters
from paddlenlp.trainer.state import TrainerState
from paddlenlp.transformers.conversion_utils import StoredWeights, load_weights
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger


def find_resume(args: Any, request: Union[None, bool, str, Path]) -> Optional[Path]:
    """The checkpoint to go on from. For one rank to find out and tell the others.

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
    found = latest_checkpoint(args.output_dir)
    if found is None and request:
        raise UsageError(f"No valid checkpoint to resume from in {args.output_dir}. Leave out resume_from_checkpoint.")
    return None if found is None else Path(found)


def check(folder: Path) -> None:
    """Refuse a folder that is not a whole checkpoint. For one rank to do: all files are read.

    Raises:
        UsageError: it is not; everything wrong is listed.
    """
    problems = verify(folder)
    if problems:
        listed = "\n".join(f"  - {problem}" for problem in problems)
        raise UsageError(f"{folder} is not a whole checkpoint:\n{listed}\nResume from another one.")


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
    manifest = folder / MANIFEST
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.is_file() else None


def load_model(model: Any, folder: Path) -> None:
    """Set the weights from a checkpoint; every rank reads its own.

    Raises:
        UsageError: they are those of another model.
    """
    try:
        load_weights(model, all_do(lambda: StoredWeights(folder)))
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
        masters_from_weights(model)
        return
    saved = Checkpoint(folder)
    if not saved.has("optimizer"):
        raise UsageError(
            f"{folder} holds no optimizer state (it was saved with ignore_save_lr_and_optim), so the run can't go on "
            "exactly. Set ignore_load_lr_and_optim to go on from its weights alone."
        )
    _load_masters(model, optimizer, saved, args.unified_checkpoint_options)
    load_states(model, optimizer, saved.tensors("optimizer"))
    lr_scheduler.set_state_dict(saved.state(SCHEDULER))
    lr_scheduler.step(lr_scheduler.last_epoch)
    if optimizer.scaler is not None and (folder / SCALER).exists():
        optimizer.scaler.load_state_dict(saved.state(SCALER))


def _load_masters(model: Any, optimizer: Any, saved: Checkpoint, words: Iterable[str]) -> None:
    if saved.has("master_weights"):
        load_masters(model, optimizer, saved.tensors("master_weights"))
    elif not has_masters(optimizer):
        return
    elif StoredWeights(saved.folder).stored_dtype() == "float32":
        load_masters(model, optimizer, saved.tensors("model"))
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
    states: List[Any] = Checkpoint(folder).state(RNG_STATE)
    mesh = str(topology().mesh)
    saved = states[0].get("mesh", mesh) if states else ""
    if saved == mesh and rank < len(states):
        set_rng_state(states[rank])
    elif rank == 0:
        logger.warning(
            f"{folder} holds the random number states of another layout ({saved}; this job is {mesh}), which are not "
            "used: dropout draws other numbers than in a run that was not interrupted."
        )
