"""Mixture of experts: each token is worked on by the few experts its router chooses.

No token is dropped and no place is padded unless `set_capacity` says so: tokens are sorted by expert, each expert
computes the ones that chose it, and their results are summed with the router's weights.
"""

from __future__ import annotations

from typing import Any, List, Optional, Tuple

import paddle
from paddle import Tensor, nn
from paddle.nn import functional as F

from paddlenlp.parallel.comm import enter, leave
from paddlenlp.parallel.experts import Deal, all_rows, own_experts
from paddlenlp.parallel.layers import Linear
from paddlenlp.parallel.topology import topology
from paddlenlp.utils.errors import UsageError

from .batch import Batch
from .mlp import NAMES, GatedMLP
from .moe_balance import balanced
from .moe_router import Router
from .precision import precision

_most: Optional[int] = None


def set_capacity(most: Optional[int], least: int = 1) -> None:
    """How many tokens of one micro batch an expert takes from each rank; those at later places get nothing from it.

    Tensor-parallel ranks, which read the same tokens, count as one rank, also under sequence parallelism.

    Args:
        most: `expert_max_capacity`; None for no limit. What is dropped depends on how a batch is split.
        least: `expert_min_capacity`; no places are kept free for tokens that do not come, so it only bounds `most`.

    Raises:
        UsageError: `most` is less than `least`, or than 1.
    """
    global _most
    if most is not None and most < max(least, 1):
        raise UsageError(
            f"expert_max_capacity={most} is less than expert_min_capacity={max(least, 1)}: raise it, or lower the other"
        )
    _most = most


class MoE(nn.Layer):
    """Router, experts and perhaps shared experts over a token matrix [tokens, hidden].

    Experts are dealt out over the expert-parallel ranks and cut over the tensor-parallel ones like a GatedMLP. All
    parts enter the cut work once and leave it once.

    Args:
        config: for its sizes.
        router: chooses the experts; becomes the sublayer `gate`.
        width: of an expert.
        activation: a key of `mlp.ACTIVATIONS`.
        names: attribute names of an expert's gate, up and down matrices.
        shared_width: of the shared expert, on which every token is worked; 0 for none.
        shared_name: attribute name of the shared expert.
        shared_gated: weigh the shared expert by the sigmoid of a score of the token, from the sublayer
            `<shared_name>_gate`.
        balance: coefficient of the balance loss; see `moe_balance`.

    Raises:
        UsageError: the ranks can't share the experts.
    """

    def __init__(
        self,
        config: Any,
        router: Router,
        width: int,
        activation: str,
        *,
        names: Tuple[str, str, str] = NAMES,
        shared_width: int = 0,
        shared_name: str = "shared_experts",
        shared_gated: bool = False,
        balance: float = 0.0,
    ) -> None:
        super().__init__()
        self.gate, self.balance = router, balance
        self.experts = Experts(config, router, width, activation, names)
        self.shared_names = (shared_name, f"{shared_name}_gate") if shared_width else ()
        if shared_width:
            self.add_sublayer(shared_name, GatedMLP(config, activation, names=names, width=shared_width, entered=True))
        if shared_width and shared_gated:
            self.add_sublayer(f"{shared_name}_gate", Linear(config.hidden_size, 1))

    def forward(self, x: Tensor, batch: Batch) -> Tensor:
        shares, chosen, weights = self.gate(x)
        if self.balance and self.training:
            weights = balanced(weights, shares, chosen, batch.size, self.balance)
        shared, shared_gate = (self._sub_layers.get(name) for name in self.shared_names or ("", ""))
        if shared_gate is not None:
            weights = paddle.concat([weights, F.sigmoid(shared_gate(x).astype("float32"))], -1)
        # The weights enter too: each rank's results are parts of sums, and so are its gradients of the weights.
        x, weights, chosen = enter(x), enter(weights), all_rows(chosen)
        y = self.experts(x, weights[:, : self.gate.choices], chosen)
        if shared is not None:
            z = shared(x)
            y = y + (z if shared_gate is None else z * weights[:, self.gate.choices :].astype(z.dtype))
        return precision().round(leave(y))


class Experts(nn.Layer):
    """Those of a layer's experts that this rank holds, each under its number among all.

    Their matrices say in `token_share` what share of the tokens is multiplied by each.
    """

    def __init__(self, config: Any, router: Router, width: int, activation: str, names: Tuple[str, str, str]) -> None:
        super().__init__()
        self.count, self.own = router.experts, own_experts(router.experts)
        for index in self.own:
            expert = GatedMLP(config, activation, names=names, width=width, entered=True)
            for matrix in expert.sublayers():
                matrix.weight.expert = topology().ep.size > 1
                matrix.token_share = router.choices / router.experts
            self.add_sublayer(str(index), expert)

    def forward(self, x: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        """The weighted sum of what the chosen experts make of each row.

        Args:
            x: [rows, hidden].
            weights: float32 [rows, k].
            chosen: int64 [rows, k].
        """
        deal = Deal(chosen, self.count, _most)
        parts = _parts(deal.out(x), deal.sizes)
        # An expert without rows computes none, so that its gradients are zeros rather than missing.
        results = [getattr(self, str(index))(part) for index, part in zip(self.own, parts)]
        return deal.back(paddle.concat(results), weights)


def _parts(rows: Tensor, sizes: List[int]) -> List[Tensor]:
    return paddle.split(rows, sizes) if len(sizes) > 1 else [rows]
