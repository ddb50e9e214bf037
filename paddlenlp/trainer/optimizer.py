"""AdamW (Loshchilov and Hutter 2019) over named parameters, with clipping, float32 masters and loss scaling.

The arithmetic is Paddle's: `merged_adam_` is the kernel under `paddle.optimizer.Adam(use_multi_tensor=True)`, on a CPU
four times as fast as the one under `paddle.optimizer.AdamW`; decoupled decay before it, `p *= 1 - lr * weight_decay`,
makes it AdamW. The state is kept here, by structured parameter name, so that a checkpoint does not depend on how Paddle
numbered its tensors. Parameters are updated one by one (on a CPU one in each thread), so that few float32 copies of
low-precision gradients exist at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterable, List, NamedTuple, Optional, Tuple, Union

import paddle
from paddle import Tensor, _C_ops

from paddlenlp.nn import kernels
from paddlenlp.trainer.loss_scaler import LossScaler
from paddlenlp.trainer.tensor_state import fill, match

NOT_DECAYED = ("bias", "norm")


class StepReport(NamedTuple):
    """What one optimizer step did.

    Attributes:
        applied: False if the gradient norm is not finite: weights, moments and masters are then bitwise as before.
        grad_norm: global L2 norm of the gradients before clipping, without the loss scale.
        loss_scale: the scale that the gradients of this step carried (1 without a loss scaler).
    """

    applied: bool
    grad_norm: float
    loss_scale: float


@dataclass
class _Slot:
    """One trained parameter and its state."""

    name: str
    param: Tensor
    master: Optional[Tensor]
    moments: Tuple[Tensor, Tensor]
    powers: Tuple[Tensor, Tensor]
    decayed: bool

    @property
    def weight(self) -> Tensor:
        """The float32 tensor that is updated."""
        return self.param if self.master is None else self.master

    def gradient(self) -> Tensor:
        """The gradient in float32: the parameter's own, or a copy."""
        gradient: Any = self.param.grad
        return gradient if gradient.dtype == paddle.float32 else gradient.astype("float32")

    def state(self) -> Dict[str, Tensor]:
        values = (*self.moments, *self.powers)
        return {f"{self.name}/{key}": value for key, value in zip(STATE_KEYS, values)}

    def publish(self) -> None:
        """Round the master into the parameter."""
        if self.master is not None:
            paddle.assign(self.master.astype(self.param.dtype), output=self.param)


STATE_KEYS = ("moment1_0", "moment2_0", "beta1_pow_acc_0", "beta2_pow_acc_0")
"""Names of an entry's four tensors, as in the reference's unified checkpoint."""


class Optimizer:
    """AdamW over named parameters.

    Frozen parameters (`stop_gradient`) have no state and are left alone; a parameter without a gradient in some step is
    left alone in that step. Low-precision parameters get float32 masters, which are updated and then rounded into them.

    Args:
        named_parameters: `(structured name, parameter)`; a tied parameter occurs once.
        learning_rate: a number, or a scheduler: a callable without arguments that returns the present learning rate.
        weight_decay: coefficient of the decoupled decay, applied with the learning rate of the step to parameters whose
            name contains neither "bias" nor "norm".
        max_grad_norm: gradients whose global norm is larger are scaled down to it; 0 does not clip.
        scaler: loss scaler of a float16 run.
    """

    def __init__(
        self,
        named_parameters: Iterable[Tuple[str, Tensor]],
        learning_rate: Union[float, Callable[[], float]],
        *,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        weight_decay: float = 0.0,
        max_grad_norm: float = 0.0,
        scaler: Optional[LossScaler] = None,
    ) -> None:
        self._learning_rate = learning_rate
        self._betas = (beta1, beta2)
        self._epsilon = epsilon
        self._weight_decay = weight_decay
        self._max_grad_norm = max_grad_norm
        self.scaler = scaler
        named_parameters = list(named_parameters)
        self._slots = [self._slot(name, param) for name, param in named_parameters if not param.stop_gradient]
        self._frozen = [name for name, param in named_parameters if param.stop_gradient]

    def _slot(self, name: str, param: Tensor) -> _Slot:
        master = None if param.dtype == paddle.float32 else param.detach().astype("float32")
        moments = (paddle.zeros(param.shape, "float32"), paddle.zeros(param.shape, "float32"))
        # In host memory the kernel reads and advances the powers without waiting for the device.
        power1, power2 = (paddle.to_tensor([beta], "float32", place=paddle.CPUPlace()) for beta in self._betas)
        decayed = not any(word in name for word in NOT_DECAYED)
        return _Slot(name, param, master, moments, (power1, power2), decayed)

    @property
    def lr(self) -> float:
        """The learning rate that the next step will use."""
        return float(self._learning_rate() if callable(self._learning_rate) else self._learning_rate)

    @property
    def loss_scale(self) -> float:
        """The factor that the loss of the next backward pass must carry."""
        return self.scaler.scale if self.scaler else 1.0

    @paddle.no_grad()
    def step(self) -> StepReport:
        """Clip the gradients in `param.grad`, which carry `loss_scale`, in place, and update.

        Nothing changes if their norm is not finite. Reading the norm waits once per step for the device.
        """
        slots = [slot for slot in self._slots if slot.param.grad is not None]
        slots.sort(key=lambda slot: slot.param.size, reverse=True)  # threads share the work best with the largest first
        scale = self.loss_scale
        norm = _global_norm(slots) / scale
        applied = math.isfinite(norm)
        if applied:
            clip = self._max_grad_norm / norm if 0 < self._max_grad_norm < norm else 1.0
            self._update(slots, clip / scale)
        if self.scaler:
            self.scaler.update(overflow=not applied)
        return StepReport(applied, norm, scale)

    def _update(self, slots: List[_Slot], factor: float) -> None:
        lr = self.lr
        rate = paddle.full([1], lr, "float32")
        keep = 1.0 - lr * self._weight_decay

        def update(slot: _Slot) -> None:
            gradient = slot.gradient()
            if factor != 1.0:
                gradient.scale_(factor)
            if slot.decayed and keep != 1.0:
                slot.weight.scale_(keep)
            _adam(slot, gradient, rate, *self._betas, self._epsilon)
            slot.publish()

        kernels.each(update, slots)

    def clear_grad(self) -> None:
        """Free the gradients; the first backward pass then stores instead of adding to zeros."""
        for slot in self._slots:
            slot.param.clear_gradient(False)

    def state_tensors(self) -> Dict[str, Tensor]:
        """The live state: for each parameter `{name}/{key}` for each of STATE_KEYS."""
        return {key: value for slot in self._slots for key, value in slot.state().items()}

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
        if all(slot.master is None for slot in self._slots):
            return {}
        return {slot.name: slot.weight for slot in self._slots}

    @paddle.no_grad()
    def load_master_tensors(self, tensors: Any) -> None:
        """Set the float32 weights, and the parameters rounded from them, to `tensors` (by parameter name, any float).

        Works in float32 runs too, so that a run can continue in float32 from the masters of a low-precision one, or in
        low precision from the weights of a float32 one. Entries of frozen parameters are passed over.

        Raises:
            UsageError: entries are missing, left over or of another shape; all are named, and nothing was changed.
        """
        own = {slot.name: slot.weight for slot in self._slots}
        match(own, tensors, "master weights", ignored=self._frozen)
        for slot in self._slots:
            fill(slot.weight, tensors[slot.name])
            slot.publish()


def _global_norm(slots: List[_Slot]) -> float:
    """L2 norm over all gradients, in float32; each parameter once, however often the model uses it."""
    if not slots:
        return 0.0
    squares = kernels.each(lambda slot: _C_ops.squared_l2_norm(slot.gradient()), slots)
    return float(paddle.add_n(squares).reshape([])) ** 0.5


def _adam(slot: _Slot, gradient: Tensor, rate: Tensor, beta1: float, beta2: float, epsilon: float) -> None:
    """One Adam update in place of the weight, both moments and both powers."""
    moment1, moment2 = slot.moments
    power1, power2 = slot.powers
    kernel: Any = _C_ops.merged_adam_  # Paddle's type stub lacks some of its parameters
    lists = ([slot.weight], [gradient], [rate], [moment1], [moment2], None, [power1], [power2], None)
    multi_precision = use_global_beta_pow = amsgrad = False
    kernel(*lists, beta1, beta2, epsilon, multi_precision, use_global_beta_pow, amsgrad)


def build_optimizer(model: Any, args: Any, lr_scheduler: Any = None) -> Optimizer:
    """The optimizer that `args` (TrainingArguments) describe, over the trainable parameters of `model`.

    `lr_scheduler` is a `paddle.optimizer.lr.LRScheduler`, or None for a constant `args.learning_rate`.
    """
    return Optimizer(
        model.named_parameters(),
        args.learning_rate if lr_scheduler is None else lr_scheduler,
        beta1=args.adam_beta1,
        beta2=args.adam_beta2,
        epsilon=args.adam_epsilon,
        weight_decay=args.weight_decay,
        max_grad_norm=args.max_grad_norm,
        scaler=LossScaler(args.scale_loss) if args.fp16 else None,
    )
