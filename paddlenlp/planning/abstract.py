"""A model without memory: its stages, built once with parameters that have a shape and no storage.

What a rank of any layout would hold follows from what the parameters say of themselves (`tp_layout`, `whole_shape`,
`expert`), as it does in a run; the world may be as large as it likes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple, Type

import paddle
from paddle import nn

from paddlenlp.nn.head import LMHead
from paddlenlp.nn.precision import dtype_name
from paddlenlp.nn.staged import DecoderLayer, StagedModel, token_table
from paddlenlp.parallel.layout import Layout as Cut
from paddlenlp.parallel.mesh import Mesh
from paddlenlp.parallel.topology import Axis, Topology, standing_in
from paddlenlp.trainer.model_fit import number_of_experts
from paddlenlp.transformers.model_utils import default_dtype

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Of an element."""

STORED = "bfloat16"
"""What abstract parameters are made in: one in another dtype has it whatever the run's is."""

_made: Dict[Tuple[str, str], AbstractModel] = {}


@dataclass(frozen=True)
class Weight:
    """A parameter of the whole model, as `make_parameter` describes it.

    Attributes:
        name: its path within the stage.
        shape: of the whole parameter.
        cut: how it is cut over the tensor-parallel ranks.
        dtype: in which it is stored, where that is not the run's.
        partial_grad: see `make_parameter`.
        experts: how many experts of the whole layer have one like it; 0 where it belongs to none.
        trained: whether it has a gradient.
    """

    name: str
    shape: Tuple[int, ...]
    cut: Cut
    dtype: Optional[str]
    partial_grad: str
    experts: int
    trained: bool

    @property
    def size(self) -> int:
        """Elements of the whole model's, all experts together."""
        return prod(self.shape) * max(1, self.experts)

    def share(self, tp: int) -> int:
        """Elements that one of `tp` ranks holds, of one expert."""
        return prod(self.cut.share_shape(self.shape, tp))


@dataclass(frozen=True, eq=False)
class AbstractStage:
    """A stage of the model.

    Attributes:
        name: in the whole model.
        layer: the stage itself, whole, with one expert for all. Its parameters have no storage.
        index: of a decoder layer; None for other stages.
        weights: its parameters, in order.
    """

    name: str
    layer: nn.Layer
    index: Optional[int]
    weights: Tuple[Weight, ...]


@dataclass(frozen=True, eq=False)
class AbstractModel:
    """The stages of a whole model.

    Attributes:
        config: of the model.
        family: its class.
        stages: in order of execution.
    """

    config: Any
    family: Type[StagedModel]
    stages: Tuple[AbstractStage, ...]

    @property
    def parameters(self) -> int:
        """How many the whole model has."""
        return sum(weight.size for stage in self.stages for weight in stage.weights)

    @property
    def tied(self) -> bool:
        """Whether what is behind the layers uses the token table."""
        head = self.stages[-1].layer
        return isinstance(head, LMHead) and (head.tied or self.family.lends_table(self.config))

    @property
    def table(self) -> Weight:
        """The token table."""
        path, _ = token_table(self.stages[0].layer)
        name = f"{path[1:]}.weight" if path else "weight"
        return next(weight for weight in self.stages[0].weights if weight.name == name)

    def chunks(self, ranks: int, chunks: int) -> List[List[List[AbstractStage]]]:
        """Pipeline rank -> chunk -> its stages, for so many ranks with so many chunks each."""
        names = [stage.name for stage in self.stages]
        parts = self.family.deal_out(self.config, names, ranks * chunks)
        dealt = [[self.stages[place] for place in part] for part in parts]
        return [dealt[rank::ranks] for rank in range(ranks)]


def abstract_model(config: Any) -> AbstractModel:
    """The model of a configuration, a PretrainedConfig; made once for equal ones.

    Layers whose making does not look at their index are made once.

    Raises:
        UsageError: the configuration contradicts itself.
    """
    key = (type(config).__name__, config.to_json_string())
    if key not in _made:
        _made[key] = _make(config)
    return _made[key]


def _make(config: Any) -> AbstractModel:
    from paddlenlp.transformers.auto.modeling import AutoModelForCausalLM

    config.validate()
    family: Any = AutoModelForCausalLM.model_class(config)
    experts = number_of_experts(config)
    # As if each rank held one expert: those of a layer are alike.
    alone = Topology(mesh=Mesh(), ep=Axis(max(1, experts)))
    with standing_in(alone), paddle.LazyGuard(), default_dtype(STORED):
        stages = list(_build(family, config, experts))
    first, head = stages[0].layer, stages[-1].layer
    if isinstance(head, LMHead) and head.tied:
        head.tie(token_table(first)[1])
    return AbstractModel(config, family, tuple(stages))


def _build(family: Any, config: Any, experts: int) -> Iterator[AbstractStage]:
    alike: Optional[AbstractStage] = None
    for name, build in family.stages(config):
        last = build.args[-1] if isinstance(build, partial) else None
        index = last if name.endswith(f".{last}") else None  # not a size
        if index is not None and alike is not None:
            yield AbstractStage(name, alike.layer, index, alike.weights)
            continue
        watched = None if index is None else _Watched(index)
        layer = build() if watched is None else build.func(*build.args[:-1], watched)
        shared = watched is not None and not watched.seen  # asked before the next line looks at it
        index = int(layer.index) if isinstance(layer, DecoderLayer) else None
        stage = AbstractStage(name, layer, index, tuple(_weights(layer, experts)))
        alike = stage if shared else None
        yield stage


class _Watched(int):
    """A number that knows whether somebody looked at it."""

    seen = False


def _seen(name: str) -> Callable[..., Any]:
    def look(self: _Watched, *others: Any) -> Any:
        self.seen = True
        return getattr(int, name)(self, *others)

    return look


for _word in [
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "bool",
    "hash",
    "index",
    "int",
    "float",
    "str",
    "repr",
    "format",
    "add",
    "radd",
    "sub",
    "rsub",
    "mul",
    "rmul",
    "mod",
    "rmod",
    "floordiv",
    "rfloordiv",
    "truediv",
    "rtruediv",
]:
    setattr(_Watched, f"__{_word}__", _seen(f"__{_word}__"))


def _weights(layer: nn.Layer, experts: int) -> Iterator[Weight]:
    for name, param in layer.named_parameters():
        stored = dtype_name(param)
        yield Weight(
            name,
            tuple(param.whole_shape),
            param.tp_layout,
            None if stored == STORED else stored,
            param.partial_grad,
            experts if param.expert else 0,
            not param.stop_gradient,
        )
