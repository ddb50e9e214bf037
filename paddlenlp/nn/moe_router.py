"""Which experts work on a token, and with what weights."""

from __future__ import annotations

from typing import Optional, Tuple, cast

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from paddlenlp.parallel.layers import make_parameter
from paddlenlp.parallel.topology import topology
from paddlenlp.utils.errors import UsageError

SCORINGS = ("softmax", "sigmoid")
TINY = 1e-20
"""Keeps a sum of weights from being zero (DeepSeek's)."""


class Router(nn.Layer):
    """Scores all experts for each token and chooses the best, in float32. Its matrix is whole on every rank.

    Args:
        hidden_size, experts: sizes of the matrix.
        choices: experts that work on a token.
        scoring: how logits become scores: a key of SCORINGS.
        renormalise: divide the weights of a token by their sum.
        scale: factor of the weights.
        groups, best_groups: experts stand in so many groups, and only those of the best `best_groups` can be chosen
            (arXiv:2405.04434, section 2.2.2). A group is as good as its best expert, or with `corrected` as its best
            two together.
        corrected: add a bias to the scores, for the choice only (arXiv:2412.19437, eq. 16). It gets no gradient, and is
            float32 whatever the other parameters are.
        bias_step: by how much `update_biases` moves the bias of each expert; 0 leaves it.

    Raises:
        UsageError: the numbers do not fit together.
    """

    def __init__(
        self,
        hidden_size: int,
        experts: int,
        choices: int,
        *,
        scoring: str = "softmax",
        renormalise: bool = False,
        scale: float = 1.0,
        groups: int = 1,
        best_groups: int = 1,
        corrected: bool = False,
        bias_step: float = 0.0,
    ) -> None:
        super().__init__()
        _check(experts, choices, scoring, groups, best_groups, corrected)
        self.experts, self.choices, self.scoring = experts, choices, scoring
        self.renormalise, self.scale = renormalise, scale
        self.groups, self.best_groups = groups, best_groups
        self.weight = make_parameter(self, [hidden_size, experts], init_scale=1.0)
        self.weight.transposed = True
        self.e_score_correction_bias = make_parameter(self, [experts], dtype="float32") if corrected else None
        if self.e_score_correction_bias is not None:
            self.e_score_correction_bias.stop_gradient = True
        self.bias_step = bias_step if corrected else 0.0
        self._load: Optional[Tensor] = None

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        """(shares [tokens, experts], chosen int64 [tokens, choices], weights [tokens, choices]) of x [tokens, hidden];
        shares are the scores divided by their sum, float32 as the weights."""
        logits = paddle.matmul(x.astype("float32"), self.weight.astype("float32"))
        scores = F.softmax(logits, -1) if self.scoring == "softmax" else F.sigmoid(logits)
        chosen = paddle.topk(self._eligible(scores.detach()), self.choices, -1)[1]
        weights = paddle.take_along_axis(scores, chosen, -1)
        if self.renormalise:
            weights = weights / (weights.sum(-1, keepdim=True) + TINY)
        if self.bias_step and self.training:
            self._count(chosen)
        shares = scores if self.scoring == "softmax" else scores / (scores.sum(-1, keepdim=True) + TINY)
        return shares, chosen, weights if self.scale == 1.0 else weights * self.scale

    def _count(self, chosen: Tensor) -> None:
        load = F.one_hot(chosen, self.experts).sum([0, 1]).astype("float64")
        self._load = load if self._load is None else self._load + load

    def take_load(self) -> Tensor:
        """How many of this rank's tokens each expert worked on since this was asked last: float64 [experts].

        What is computed twice, for recomputing, counts twice.
        """
        load, self._load = self._load, None
        return paddle.zeros([self.experts], "float64") if load is None else load

    def _eligible(self, scores: Tensor) -> Tensor:
        """What the best are chosen by: the scores, corrected, and below all others outside the best groups."""
        bias = self.e_score_correction_bias
        if bias is not None:
            scores = scores + bias.astype("float32")
        if self.groups == 1:
            return scores
        grouped = scores.reshape([scores.shape[0], self.groups, -1])
        merit = grouped.max(-1) if bias is None else paddle.topk(grouped, 2, -1)[0].sum(-1)
        best = F.one_hot(paddle.topk(merit, self.best_groups, -1)[1], self.groups).sum(1, keepdim=True)
        allowed = best.astype("bool").transpose([0, 2, 1]).expand_as(grouped)
        return paddle.where(allowed, grouped, paddle.full_like(grouped, -float("inf"))).reshape(scores.shape)


@paddle.no_grad()
def update_biases(model: nn.Layer, applied: bool = True) -> None:
    """Move the biases of the routers of `model` at the end of a training step: up by `bias_step` for an expert that
    worked on fewer tokens of the global batch than the mean, down for one that worked on more (arXiv:2412.19437,
    section 2.1.2).

    All ranks call it together.

    Args:
        model: what was trained.
        applied: false: the step was given up; forget what was counted.
    """
    routers = [layer for layer in model.sublayers() if isinstance(layer, Router) and layer.bias_step]
    if not routers:
        return
    load, mesh = paddle.stack([router.take_load() for router in routers]), topology()
    if not applied:
        return
    for axis in (mesh.data, mesh.sequence, *([mesh.tp] if mesh.sequence_parallel else [])):
        load = axis.group.all_reduce(load).wait()
    ways = paddle.sign(load.mean(-1, keepdim=True) - load).astype("float32")
    for router, way in zip(routers, ways):
        bias = cast(Tensor, router.e_score_correction_bias)
        paddle.assign(bias + router.bias_step * way, output=bias)


def _check(experts: int, choices: int, scoring: str, groups: int, best_groups: int, corrected: bool) -> None:
    if scoring not in SCORINGS:
        raise UsageError(f"scoring_func={scoring!r} is not known; known: {', '.join(SCORINGS)}")
    of = f"{experts} experts in {groups} groups, of which {best_groups} may be used"
    if experts % groups or not 0 < best_groups <= groups:
        raise UsageError(f"{of}: groups must divide the experts, and be at least as many as may be used")
    if not 0 < choices <= experts // groups * best_groups:
        raise UsageError(f"{of}: a token cannot choose {choices} of {experts // groups * best_groups}")
    if corrected and groups > 1 and experts // groups < 2:
        raise UsageError(f"{of}: groups are ranked by their two best experts and have only one")
