"""AdamW (Loshchilov and Hutter 2019) over the pieces of parameters that this rank updates, with clipping, float32
masters and loss scaling.

The arithmetic is that of `kernels.adamw`. The state is kept here, by structured parameter name, so that a checkpoint
does not depend on how Paddle numbered its tensors. Pieces are updated one by one (on a CPU one in each thread, where
the operation itself takes one), so that few float32 copies of low-precision gradients exist at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Tuple, Union

import paddle
from paddle import Tensor

from paddlenlp.nn import kernels
from paddlenlp.parallel.gradients import Gradients, Piece
from paddlenlp.parallel.offload import to_device, to_host, write_back
from paddlenlp.parallel.sharding import build_gradients
from paddlenlp.parallel.topology import topology
from paddlenlp.trainer.loss_scaler import LossScaler
from paddlenlp.trainer.tensor_state import fill, match
from paddlenlp.utils.log import logger

NOT_DECAYED = ("bias", "norm")


class StepReport(NamedTuple):
    """What one optimizer step did.

    Attributes:
        applied: False if the gradient norm is not finite, or a rank refused: weights, moments and masters are then
            bitwise as before.
        grad_norm: global L2 norm of the gradients before clipping, without the loss scale.
        loss_scale: the scale that the gradients of this step carried (1 without a loss scaler).
        refused: whether some rank refused.
    """

    applied: bool
    grad_norm: float
    loss_scale: float
    refused: bool = False


@dataclass
class _Slot:
    """One piece and its state."""

    piece: Piece
    moments: Tuple[Tensor, Tensor]
    powers: Tuple[Tensor, Tensor]
    decayed: bool

    def state(self) -> Dict[str, Tensor]:
        return dict(zip(STATE_KEYS, (*self.moments, *self.powers)))

    def shaped(self) -> Dict[str, Tensor]:
        """The state under its names in a checkpoint, moments in the shape of the parameter."""
        moment, power = self.piece.param.shape, [1]
        shapes = zip(self.state().items(), (moment, moment, power, power))
        return {f"{self.piece.name}/{key}": value.reshape(shape) for (key, value), shape in shapes}


STATE_KEYS = ("moment1_0", "moment2_0", "beta1_pow_acc_0", "beta2_pow_acc_0")
"""Names of an entry's four tensors, as in the reference's unified checkpoint."""


class Optimizer:
    """AdamW over the pieces of `gradients`.

    Frozen parameters (`stop_gradient`) have no state and are left alone; a piece without a gradient in some step is
    left alone in that step. Low-precision parameters have float32 masters, which are updated and rounded into them.

    Args:
        gradients: gives pieces and their gradients, and takes the updated weights.
        learning_rate: a number, or a scheduler: a callable without arguments that returns the present learning rate.
        weight_decay: coefficient of the decoupled decay, applied with the learning rate of the step to parameters whose
            name contains neither "bias" nor "norm".
        max_grad_norm: gradients whose global norm is larger are scaled down to it; 0 does not clip.
        scaler: loss scaler of a float16 run.
        offload: keep moments and masters in host memory and bring those of one piece after the other to the device.
    """

    def __init__(
        self,
        gradients: Gradients,
        learning_rate: Union[float, Callable[[], float]],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
        scaler: Optional[LossScaler] = None,
        offload: bool = False,
    ) -> None:
        self.gradients = gradients
        self._learning_rate = learning_rate
        self._betas = (beta1, beta2)
        self._epsilon = epsilon
        self._weight_decay = weight_decay
        self._max_grad_norm = max_grad_norm
        self._offload = offload
        self.scaler = scaler
        self._slots = {piece.name: self._slot(piece) for piece in gradients.pieces}

    def _slot(self, piece: Piece) -> _Slot:
        shape = piece.weight.shape
        moments = (paddle.zeros(shape, "float32"), paddle.zeros(shape, "float32"))
        if self._offload:
            moments = (to_host(moments[0]), to_host(moments[1]))
            piece.weight = to_host(piece.weight) if piece.master else piece.weight
        # In host memory the kernel reads and advances the powers without waiting for the device.
        power1, power2 = (paddle.to_tensor([beta], "float32", place=paddle.CPUPlace()) for beta in self._betas)
        decayed = not any(word in piece.name for word in NOT_DECAYED)
        return _Slot(piece, moments, (power1, power2), decayed)

    @property
    def lr(self) -> float:
        """The learning rate that the next step will use."""
        return float(self._learning_rate() if callable(self._learning_rate) else self._learning_rate)

    @property
    def loss_scale(self) -> float:
        """The factor that the loss of the next backward pass must carry."""
        return self.scaler.scale if self.scaler else 1.0

    @paddle.no_grad()
    def step(self, refuse: bool = False) -> StepReport:
        """Update with the clipped gradients, and publish the new weights. The gradients carry `loss_scale`; they may be
        scaled in place.

        Nothing changes if their norm is not finite or a rank refuses, which all ranks see alike, since norm and
        refusals are those of the whole job. Reading them waits once per step for the device.

        Args:
            refuse: whether this rank finds the step bad. It is enough that one does.
        """
        slots = [slot for slot in self._slots.values() if self.gradients.gradient(slot.piece) is not None]
        slots.sort(key=lambda slot: slot.piece.weight.size, reverse=True)  # threads share the work best like this
        scale = self.loss_scale
        norm, refused = self._agree(slots, refuse)
        norm /= scale
        finite = math.isfinite(norm)
        applied = finite and not refused
        if applied:
            clip = self._max_grad_norm / norm if 0 < self._max_grad_norm < norm else 1.0
            self._update(slots, clip / scale)
            self.gradients.publish()
        if self.scaler and (applied or not finite):
            self.scaler.update(overflow=not finite)
        return StepReport(applied, norm, scale, refused)

    def _update(self, slots: List[_Slot], factor: float) -> None:
        lr = self.lr

        def update(slot: _Slot) -> None:
            gradient: Any = self.gradients.gradient(slot.piece)
            at_rest = (slot.piece.weight, *slot.moments)
            weight, moment1, moment2 = tensors = [to_device(x) for x in at_rest]
            kernels.adamw(
                weight,
                gradient,
                (moment1, moment2),
                slot.powers,
                lr=lr,
                betas=self._betas,
                epsilon=self._epsilon,
                decay=self._weight_decay if slot.decayed else 0.0,
                factor=factor,
            )
            for rest, tensor in zip(at_rest, tensors):
                write_back(rest, tensor)

        kernels.each(update, slots, by="adamw")

    def _agree(self, slots: List[_Slot], refuse: bool) -> Tuple[float, bool]:
        """L2 norm over the gradients of the whole model, and whether some rank refuses to update.

        Every rank sums the squares of its pieces, each divided by the number of ranks that count it too; one sum over
        all ranks in float64 follows, so each element counts once in every layout, and all ranks get the same bits.
        """

        def square(slot: _Slot) -> Tensor:
            gradient: Any = self.gradients.gradient(slot.piece)
            copies = slot.piece.copies
            if isinstance(copies, Tensor):
                return kernels.squared_norm(gradient / copies.sqrt())
            found = kernels.squared_norm(gradient)
            return found if copies == 1 else found / copies

        squares = kernels.each(square, slots, by="squared_norm")
        total = paddle.concat(squares).astype("float64").sum() if squares else paddle.zeros([], "float64")
        told = paddle.stack([total, paddle.full([], float(refuse), "float64")])
        square_sum, refusals = topology().world.group.all_reduce(told).wait().numpy()
        return float(square_sum) ** 0.5, bool(refusals > 0)

    def clear_grad(self) -> None:
        """Free the gradients."""
        self.gradients.clear()

    # ---- state, piece by piece: what a checkpoint of any layout is made of -----------------------------------

    @property
    def pieces(self) -> List[Piece]:
        """What this rank updates; see `Piece`."""
        return [slot.piece for slot in self._slots.values()]

    def states(self, piece: Piece) -> Dict[str, Tensor]:
        """The live state of a piece: each of STATE_KEYS -> flat float32 tensor; moments [stop - start], powers [1]."""
        return {key: value.reshape([-1]) for key, value in self._slots[piece.name].state().items()}

    def load_states(self, piece: Piece, key: str, values: Any) -> None:
        """Copy `values` (see `fill`; as many as `states` gives) into one state tensor, bitwise."""
        fill(self._slots[piece.name].state()[key], values)

    def master(self, piece: Piece) -> Optional[Tensor]:
        """The live float32 master of a piece, flat [stop - start]; None where the parameter is float32 itself."""
        return piece.weight.reshape([-1]) if piece.master else None

    @paddle.no_grad()
    def load_weight(self, piece: Piece, values: Any) -> None:
        """Set the float32 weight of a piece to `values` (see `fill`). Call `publish` once after all pieces."""
        fill(piece.weight, values)

    @paddle.no_grad()
    def publish(self) -> None:
        """Bring the weights of all pieces into the parameters of all ranks; every rank calls it."""
        self.gradients.publish()

    # ---- state as whole tensors, where this rank updates whole parameters ------------------------------------

    def state_tensors(self) -> Dict[str, Tensor]:
        """The live state: for each parameter `{name}/{key}` for each of STATE_KEYS."""
        return {key: value for slot in self._slots.values() for key, value in slot.shaped().items()}

    def load_state_tensors(self, tensors: Any) -> None:
        """Copy `tensors` (a mapping from name to array or tensor, such as TensorFiles) into the state, bitwise.

        Raises:
            UsageError: entries are missing, left over or of another shape; all are named, and nothing was changed.
        """
        own = self.state_tensors()
        match(own, tensors, "optimizer state")
        for name, value in own.items():
            fill(value, tensors[name])

    def master_tensors(self) -> Dict[str, Tensor]:
        """The float32 weights by parameter name, if any parameter is stored in low precision; else nothing.

        Parameters that are float32 themselves are included, as in the reference.
        """
        if not any(piece.master for piece in self.pieces):
            return {}
        return self._weights()

    def _weights(self) -> Dict[str, Tensor]:
        return {piece.name: piece.weight.reshape(piece.param.shape) for piece in self.pieces}

    @paddle.no_grad()
    def load_master_tensors(self, tensors: Any) -> None:
        """Set the float32 weights, and the parameters rounded from them, to `tensors` (by parameter name, any float).

        Works in float32 runs too, so that a run can continue in float32 from the masters of a low-precision one, or in
        low precision from the weights of a float32 one. Entries of frozen parameters are passed over.

        Raises:
            UsageError: entries are missing, left over or of another shape; all are named, and nothing was changed.
        """
        match(self._weights(), tensors, "master weights", ignored=self.gradients.frozen)
        for piece in self.pieces:
            self.load_weight(piece, tensors[piece.name])
        self.publish()


def build_optimizer(model: Any, args: Any, lr_scheduler: Any = None) -> Optimizer:
    """The optimizer that `args` (TrainingArguments) describe, over the trainable parameters of `model`.

    Sets `model.gradients` to what the layout of the job (`topology()`) and `args.sharding_stage` need.

    Args:
        model: a `StagedModel`.
        lr_scheduler: a `paddle.optimizer.lr.LRScheduler`, or None for a constant `args.learning_rate`.
    """
    model.gradients = build_gradients(model, args.sharding_stage, args.bucket_bytes)
    if args.sharding_offload and paddle.get_device().startswith("cpu"):
        logger.info("sharding offload changes nothing on a CPU: the optimizer's state is in host memory already")
    return Optimizer(
        model.gradients,
        args.learning_rate if lr_scheduler is None else lr_scheduler,
        beta1=args.adam_beta1,
        beta2=args.adam_beta2,
        epsilon=args.adam_epsilon,
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        scaler=LossScaler(args.scale_loss) if args.fp16 else None,
        offload=args.sharding_offload,
    )
