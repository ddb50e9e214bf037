"""In which dtypes a run stores its parameters, computes, and sums its gradients.

| arguments                 | storage  | compute  | gradients                                  |
|---------------------------|----------|----------|--------------------------------------------|
| none                      | float32  | float32  | float32                                    |
| bf16 or fp16 at O1        | float32  | low      | float32                                    |
| bf16 or fp16 at O2        | low      | low      | low, or float32 with `amp_master_grad`     |

Paddle's CPU build has no low-precision matmul, addition, softmax or norm. There `emulated` is set: tensors between the
layers are float32 and every result that a GPU would round is rounded to the low-precision grid, forward and backward,
so that a low-precision run trains on a CPU: slowly, and with the low-precision numerics.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Dict, Iterable, List, Literal, Optional, cast

import paddle
from paddle import Tensor

DType = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class Precision:
    """The dtypes of a run, by name.

    Attributes:
        storage: of the parameters.
        compute: of matrix products and of what flows between layers.
        grad: in which `train_batch` sums the gradients of low-precision parameters, and leaves them in `param.grad`.
            (Those of float32 parameters are always float32.)
        emulated: compute in float32 and round results to the grid of `compute`.
    """

    storage: DType = "float32"
    compute: DType = "float32"
    grad: DType = "float32"
    emulated: bool = False

    def to_compute(self, x: Tensor) -> Tensor:
        """`x` as the operations of this run take it: in the compute dtype, or as float32 on its grid if emulated."""
        x = x.astype(self.compute)
        return x.astype("float32") if self.emulated else x

    def round(self, x: Tensor) -> Tensor:
        """A result `x` as the compute dtype holds it. Its gradient is rounded too. Without emulation, `x` itself."""
        return x.astype(self.compute).astype("float32") if self.emulated else x


_policy = Precision()


def precision() -> Precision:
    """The policy of this run; float32 throughout until `set_precision`."""
    return _policy


def set_precision(policy: Precision) -> None:
    """Make `policy` the one of this run. To be called before the model is built."""
    global _policy
    _policy = policy


def dtype_name(x: Tensor) -> DType:
    """The dtype of `x`, which is one of a policy's."""
    return cast(DType, str(x.dtype).rpartition(".")[2])


def add_to(total: Tensor, term: Tensor) -> None:
    """Add `term` to `total` in place, in the dtype of `total`."""
    kept = dtype_name(total)
    if kept == "float32" or not _policy.emulated:
        total.add_(term.astype(kept))
    else:  # Paddle's CPU build adds no low-precision tensors
        paddle.assign((total.astype("float32") + term.astype("float32")).astype(kept), output=total)


class GradientSums:
    """Sums gradients of low-precision parameters over micro batches in the policy's gradient dtype.

    Autograd sums into `param.grad` in the storage dtype, which loses small terms. So after each backward pass `add`
    moves `param.grad` into a sum of the wanted dtype, and `finish` puts the sums into `param.grad`. Parameters that
    are stored in that dtype already are left to autograd.
    """

    def __init__(self, params: Iterable[Tensor]) -> None:
        kept = ("float32", precision().grad)
        self._params: List[Tensor] = [param for param in params if dtype_name(param) not in kept]
        self._places = {id(param): index for index, param in enumerate(self._params)}
        self._sums: Dict[int, Tensor] = {}
        self.add()

    def add(self) -> None:
        """Move the present gradients into the sums."""
        wanted = precision().grad
        for index, param in enumerate(self._params):
            if param.grad is None:
                continue
            # A sum of an earlier step is copied, since clearing the gradient frees its storage.
            term = param.grad.clone() if dtype_name(param.grad) == wanted else param.grad.astype(wanted)
            self._sums[index] = self._sums[index].add_(term) if index in self._sums else term
            param.grad = None

    def total(self, param: Tensor) -> Optional[Tensor]:
        """What sums the gradients of `param`, to be added to; None if that is not float32, or if autograd is to store
        the first gradient, which needs no zeros to be added to."""
        index = self._places.get(id(param))
        if index is None:
            found = param.grad
        elif index in self._sums:
            found = self._sums[index]
        else:
            found = self._sums[index] = paddle.zeros(param.shape, precision().grad)
        return found if found is not None and dtype_name(found) == "float32" else None

    def finish(self) -> None:
        """Leave the sums in `param.grad`, which takes a copy: of one at a time."""
        for index in list(self._sums):
            self._params[index].grad = self._sums.pop(index)
