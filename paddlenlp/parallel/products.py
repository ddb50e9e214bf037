"""Products of rows with matrices that are cut: what is sent travels while other products are computed."""

from __future__ import annotations

from typing import Any, List, Optional, Sequence, Tuple

import paddle
from paddle import Tensor
from paddle.autograd import PyLayer

from paddlenlp.nn import kernels
from paddlenlp.utils.pylayer import save

from . import comm
from .group import Group, done
from .topology import topology

Columns = Sequence[Tuple[int, int, int]]
"""(start, stop, copies) of columns that other ranks hold too."""


def column_products(
    x: Tensor, weights: Sequence[Tensor], biases: Sequence[Optional[Tensor]], shared: Sequence[Columns]
) -> List[Tensor]:
    """x W + b for several matrices W [in, out_i] and biases b [out_i] of this rank.

    | pass     | without sequence parallelism        | with it                                                |
    |----------|-------------------------------------|--------------------------------------------------------|
    | forward  | nothing                             | all-gather of x, of which only the own rows are kept   |
    | backward | all-reduce of dX during products dW | all-gather of x during dX; reduce-scatter of dX        |
    |          |                                     | during products dW                                     |

    Once for all matrices. Where ranks hold copies of columns (key heads fewer than ranks), one more all-reduce in the
    backward pass sums the gradients of all copies.

    Args:
        x: [rows, in]; under sequence parallelism this rank's rows.
        weights: the matrices.
        biases: theirs, or None.
        shared: the copied columns of each matrix and of its bias.

    Returns:
        [all rows, out_i]
    """
    biased = [index for index, bias in enumerate(biases) if bias is not None]
    owners = [*range(len(weights)), *biased]
    out = _Columns.apply(x, owners, [shared[owner] for owner in owners], *weights, *[biases[i] for i in biased])
    return list(out) if isinstance(out, (tuple, list)) else [out]


def own_product(x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
    """x W + b of this rank alone, for x [rows, in], W [in, out] and b [out]: nothing is sent."""
    return _Own.apply(x, weight, bias)


class _Own(PyLayer):
    """Autograd could do it, but for adding the gradient of W to the sum over the micro batches in the product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        params = [weight] if bias is None else [weight, bias]
        ctx.wanted = [not tensor.stop_gradient for tensor in (x, *params)]
        ctx.gradient_sum = _gradient_sum(weight, ())
        save(ctx, x, weight)
        return kernels.product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        x, weight = ctx.saved_tensor()
        wanted_x, wanted_weight, *wanted_bias = ctx.wanted
        grad_x = paddle.matmul(grad, weight, transpose_y=True) if wanted_x else None
        grad_weight = kernels.weight_gradient(x, grad, ctx.gradient_sum) if wanted_weight else None
        return (grad_x, grad_weight, *(_sum_of_rows(grad) if wanted else None for wanted in wanted_bias))


class _Columns(PyLayer):
    """The params are all matrices, then biases; `owners` are the indices of the matrices they are or belong to."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, owners: List[int], shared: List[Columns], *params: Tensor) -> Any:
        count = max(owners) + 1
        ctx.owners, ctx.shared = owners, shared
        ctx.wanted_x, ctx.wanted = not x.stop_gradient, [not param.stop_gradient for param in params]
        ctx.sums = [_gradient_sum(param, copied) for param, copied in zip(params[:count], shared)]
        save(ctx, x, *params[:count])
        mesh = topology()
        if mesh.sequence_parallel:
            x = mesh.tp.group.all_gather(x.contiguous()).wait()
        biases = dict(zip(owners[count:], params[count:]))
        out = [kernels.product(x, weight, biases.get(index)) for index, weight in enumerate(params[:count])]
        return out[0] if count == 1 else tuple(out)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tuple[Any, ...]:
        x, *weights = ctx.saved_tensor()
        mesh = topology()
        group = mesh.tp.group
        rows = group.all_gather(x.contiguous()) if mesh.sequence_parallel else done(x)
        grad_x = _grad_of_rows(grads, weights) if ctx.wanted_x else None
        x, moved = rows.wait(), None
        if grad_x is not None:
            moved = group.reduce_scatter(grad_x) if mesh.sequence_parallel else group.all_reduce(grad_x)
        made = _parameter_grads(ctx, x, grads)
        _sum_copies(group, made, ctx.shared)
        return (None if moved is None else moved.wait(), *made)


def _grad_of_rows(grads: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """This rank's part of the gradient of x: the sum of dY W'."""
    total = paddle.matmul(grads[0], weights[0], transpose_y=True)
    for grad, weight in zip(grads[1:], weights[1:]):
        total.add_(paddle.matmul(grad, weight, transpose_y=True))
    return total


def _parameter_grads(ctx: Any, x: Tensor, grads: Sequence[Tensor]) -> List[Optional[Tensor]]:
    """Gradients of the params, None where none is wanted, or where it has been added to the sum of the step."""
    made: List[Optional[Tensor]] = []
    for place, (owner, wanted) in enumerate(zip(ctx.owners, ctx.wanted)):
        if not wanted:
            made.append(None)
        elif place == owner:
            made.append(kernels.weight_gradient(x, grads[owner], ctx.sums[owner]))
        else:
            made.append(_sum_of_rows(grads[owner]))
    return made


def _gradient_sum(weight: Tensor, copied: Columns) -> Any:
    """What the gradient of a matrix may be added to; None where it is to be summed over copied columns before."""
    return None if copied else getattr(weight, "gradient_sum", None)


def _sum_of_rows(grad: Tensor) -> Tensor:
    """[rows, out] -> [out]: by a product, since Paddle's sum over rows is slow on a CPU."""
    return paddle.matmul(paddle.ones([1, grad.shape[0]], grad.dtype), grad).reshape([-1])


def _sum_copies(group: Group, grads: Sequence[Optional[Tensor]], shared: Sequence[Columns]) -> None:
    """Replace what `grads` have in copied columns by its sum over the ranks that hold the same copy.

    Neighbouring ranks do. Each set of them has its own row in what is summed over all.
    """
    copied = [(grad, *span) for grad, spans in zip(grads, shared) if grad is not None for span in spans]
    if not copied:
        return
    parts = [grad[..., start:stop] for grad, start, stop, _ in copied]
    copies = copied[0][3]
    row = paddle.concat([part.reshape([-1]) for part in parts])
    sums = paddle.zeros([group.size // copies, row.shape[0]], row.dtype)
    sums[group.rank // copies] = row
    total = group.all_reduce(sums).wait()[group.rank // copies]
    for (grad, start, stop, _), part, summed in zip(copied, parts, total.split([part.size for part in parts])):
        grad[..., start:stop] = summed.reshape(part.shape)


def row_product(x: Tensor, weight: Tensor) -> Tensor:
    """The sum over the ranks of x W for this rank's columns x [all rows, in] and rows W [in, out].

    | pass     | without sequence parallelism | with it        |
    |----------|------------------------------|----------------|
    | forward  | all-reduce                   | reduce-scatter |
    | backward | nothing                      | all-gather     |

    Returns:
        [rows, out]; under sequence parallelism this rank's rows.
    """
    return _Row.apply(x, weight)


class _Row(PyLayer):
    """The product is summed in its place, which the general `comm.leave` cannot do."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        mesh = topology()
        ctx.wanted = not x.stop_gradient, not weight.stop_gradient
        ctx.gradient_sum = _gradient_sum(weight, ())
        save(ctx, x, weight)
        y = kernels.product(x, weight)
        if not mesh.sequence_parallel:
            return mesh.tp.group.all_reduce(y).wait()
        comm.check_rows(y.shape[0])
        return mesh.tp.group.reduce_scatter(y).wait()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        mesh = topology()
        x, weight = ctx.saved_tensor()
        if mesh.sequence_parallel:
            grad = mesh.tp.group.all_gather(grad.contiguous()).wait()
        wanted_x, wanted_weight = ctx.wanted
        grad_x = paddle.matmul(grad, weight, transpose_y=True) if wanted_x else None
        return grad_x, kernels.weight_gradient(x, grad, ctx.gradient_sum) if wanted_weight else None
