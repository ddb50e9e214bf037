"""From the whole tensors of a checkpoint to the pieces that this rank updates.

All ranks that share the model call these together; each reads only the elements of its pieces.
"""

from __future__ import annotations

from typing import Any, Dict, Tuple

import paddle

from paddlenlp.parallel.gradients import Piece
from paddlenlp.parallel.holdings import at_hand
from paddlenlp.parallel.topology import topology
from paddlenlp.trainer.optimizer import STATE_KEYS
from paddlenlp.trainer.tensor_state import fill, match_shapes
from paddlenlp.utils.tensor_files import Excerpt, TensorFiles


def load_states(model: Any, optimizer: Any, saved: Any) -> None:
    """Copy the state of all pieces of `optimizer` from the tensor files `saved`: `{parameter}/{key}` -> whole tensor.

    Raises:
        UsageError: (all functions) entries are missing, left over or of another shape; all are named, on all ranks, and
            nothing was changed.
    """
    shapes = {
        f"{name}/{key}": shape if is_moment(key) else (1,)
        for name, shape in _trained(model).items()
        for key in STATE_KEYS
    }
    match_shapes(shapes, saved, "optimizer state")
    for piece in optimizer.pieces:
        for key in STATE_KEYS:
            name = f"{piece.name}/{key}"
            optimizer.load_states(piece, key, share_of(piece, saved, name) if is_moment(key) else saved[name])


def load_masters(model: Any, optimizer: Any, saved: Any) -> None:
    """Set the float32 weights, and the parameters rounded from them, from the tensor files `saved`, by parameter.

    Works in float32 runs too, so that a run can continue in float32 from the masters of a low-precision one, or in low
    precision from the weights of a float32 one. Entries of frozen parameters are passed over.
    """
    match_shapes(_trained(model), saved, "master weights", ignored=model.gradients.frozen)
    for piece in optimizer.pieces:
        optimizer.load_weight(piece, share_of(piece, saved, piece.name))
    optimizer.publish()


@paddle.no_grad()
def masters_from_weights(model: Any) -> None:
    """Set the float32 masters to the values of the parameters."""
    pieces = {piece.name: piece for piece in model.gradients.pieces if piece.master}
    params = dict(model.named_parameters())
    for names in at_hand(model):
        for piece in (pieces[name] for name in names if name in pieces):
            values = params[piece.name].reshape([-1])[piece.start : piece.stop]
            fill(piece.weight, values.reshape(piece.weight.shape))


def share_of(piece: Piece, saved: TensorFiles, name: str) -> Excerpt:
    """The elements of `piece`, flat, of tensor `name`, which has the shape of its whole parameter."""
    tp = topology().tp
    box = piece.param.tp_layout.box(saved.shape(name), tp.rank, tp.size)
    return saved.excerpt(name, box, piece.start, piece.stop)


def is_moment(key: str) -> bool:
    """Whether a state has the shape of its parameter; the others are numbers."""
    return key.startswith("moment")


def _trained(model: Any) -> Dict[str, Tuple[int, ...]]:
    """Whole shapes of the trained parameters, whichever rank updates them."""
    frozen = set(model.gradients.frozen)
    return {name: tuple(param.whole_shape) for name, param in model.named_parameters() if name not in frozen}
