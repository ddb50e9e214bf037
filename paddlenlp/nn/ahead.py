"""Multi-token prediction (DeepSeek-V3, arXiv:2412.19437, section 2.2): in training, a layer behind the last one
predicts the token after the next, from the hidden states and the embedding of the next token. It shares the token table
and the head with the model.

Its loss acts through its gradient and is in no loss that is reported. Outside of training steps it does nothing.
"""

from __future__ import annotations

import re
from functools import partial
from typing import Any, Callable, ClassVar, Iterator, List, Optional, Tuple

import paddle
from paddle import Tensor, nn
from paddle.autograd import PyLayer

from paddlenlp.parallel.layers import Embedding, Linear

from .batch import Batch
from .head import LMHead
from .norm import RMSNorm

_factor: Optional[Tensor] = None


def set_token_factor(factor: Optional[Tensor]) -> None:
    """What the loss of one token weighs in the gradients: their scale / kept tokens of the global batch. Set by
    `train_batch` for its duration."""
    global _factor
    _factor = factor


class Ahead(nn.Layer):
    """To be inherited in front of a family's decoder layer, which becomes the layer that predicts further.

    The attribute names are those of DeepSeek's files; the token table and the head, which those hold once more, are the
    model's.

    Args:
        config: for its sizes.
        index: of the decoder layer.

    Attributes:
        weight: of the loss (lambda in the paper).
    """

    def __init__(self, config: Any, index: int) -> None:
        super().__init__(config, index)  # type: ignore[arg-type]  # of the decoder layer
        self.index, self.weight = index, 0.0
        self.enorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.hnorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.eh_proj = Linear(2 * config.hidden_size, config.hidden_size)
        self.shared_head = nn.Layer()
        self.shared_head.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self._shared: Tuple[Any, ...] = ()

    def share(self, table: Embedding, head: LMHead) -> None:
        """Use the model's token table and head, which stay theirs."""
        self._shared = (table, head)  # in a tuple, so that they are not registered as sublayers

    @property
    def borrowed(self) -> List[Tensor]:
        """The parameters of others that this stage computes with."""
        table, head = self._shared
        return [table.weight, head.matrix]

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        """x [tokens, hidden], what the closing norm gives, unchanged."""
        if _factor is None or batch.ahead is None or not self.training:
            return x
        (ids, labels), (table, head) = batch.ahead, self._shared
        y = self.eh_proj(paddle.concat([self.enorm(table(ids)), self.hnorm(x)], -1))
        y = super().forward(y, batch)
        loss = head.loss(self.shared_head.norm(y), labels)
        return _Inject.apply(x, loss, (self.weight * _factor).astype(loss.dtype).reshape(loss.shape))


class PredictsAhead:
    """To be inherited in front of CausalLM by a family whose files may hold such layers, `num_nextn_predict_layers` in
    number. They are no part of the model and left unread where `num_nextn_predict_lambda` of the configuration is 0;
    else one is, and that is the weight of its loss.

    A family sets `ahead_class`.
    """

    ahead_class: ClassVar[Callable[[Any, int], Ahead]]

    @classmethod
    def stages(cls, config: Any) -> Iterator[Tuple[str, Callable[[], nn.Layer]]]:
        *others, head = super().stages(config)  # type: ignore[misc]
        yield from others
        if config.num_nextn_predict_lambda:
            last = f"{cls.base_model_prefix}.layers.{config.num_hidden_layers}"  # type: ignore[attr-defined]
            yield last, partial(cls._build_ahead, config)
        yield head

    @classmethod
    def _build_ahead(cls, config: Any) -> Ahead:
        layer = cls.ahead_class(config, config.num_hidden_layers)
        layer.weight = config.num_nextn_predict_lambda
        return layer

    @classmethod
    def lends_table(cls, config: Any) -> bool:
        return super().lends_table(config) or config.num_nextn_predict_lambda > 0  # type: ignore[misc]

    def is_spare(self, name: str) -> bool:
        config, layer = self.config, re.match(r"(?:\w+\.)?layers\.(\d+)\.", name)  # type: ignore[attr-defined]
        return layer is not None and 0 <= int(layer[1]) - config.num_hidden_layers < config.num_nextn_predict_layers


class _Inject(PyLayer):
    """Gives `x` as it is, and `slope` as the gradient of `loss`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, loss: Tensor, slope: Tensor) -> Tensor:
        ctx.slope = slope
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tuple[Any, ...]:
        return grad, ctx.slope, None
