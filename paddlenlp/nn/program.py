"""How a causal language model reads micro batches: a training step, an evaluation, the next token.

Each is one program for a process that holds the whole model and for one that holds a part of it: there, hidden states
come from another process and go to another, and the results of the last part go to all.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import paddle
from paddle import Tensor

from paddlenlp.parallel import comm
from paddlenlp.parallel.gradients import total_loss, total_over_data
from paddlenlp.parallel.heartbeat import beat
from paddlenlp.parallel.pipeline import Hidden, PipelineStep, from_last, is_last, pass_through
from paddlenlp.parallel.sequence import own_share, own_share_of_batch
from paddlenlp.parallel.topology import topology
from paddlenlp.utils.errors import UsageError

from .ahead import set_token_factor
from .batch import Batch, make_batch
from .cache import KVCache
from .documents import Documents
from .loss import kept_tokens
from .moe_balance import set_balance_factor
from .plain import IGNORED
from .precision import precision

MicroBatch = Mapping[str, Tensor]

DESCRIBED = ("position_ids", "attention_mask", "document_ids")
"""What a micro batch may say of its tokens."""


class Reading(NamedTuple):
    """A micro batch as stages take it: token ids [tokens] and labels [tokens] of this rank, and what else they see."""

    ids: Tensor
    labels: Optional[Tensor]
    batch: Batch


def read(model: Any, micro_batch: MicroBatch) -> Reading:
    """What this rank reads of `micro_batch` (`input_ids`, `labels` and perhaps some of DESCRIBED)."""
    own, ids = own_share_of_batch(micro_batch), micro_batch["input_ids"]
    told: Dict[str, Any] = {name: micro_batch[name] for name in DESCRIBED if name in micro_batch}
    batch = describe(model, ids, **told)
    if model.looks_ahead:
        batch = batch._replace(ahead=_next_tokens(ids, micro_batch["labels"], batch.documents))
    return Reading(own["input_ids"].reshape([-1]), own["labels"].reshape([-1]), batch)


def _next_tokens(ids: Tensor, labels: Tensor, documents: Optional[Documents]) -> Tuple[Tensor, Tensor]:
    """Ids and labels of the tokens one further on, of whole rows [b, s], as far as this rank reads them: [tokens].

    At the end of a row, and of a document, there is no label one further on.
    """
    last = paddle.where(labels[:, -1:] == IGNORED, ids[:, -1:], labels[:, -1:])
    further = paddle.concat([labels[:, 1:], paddle.full_like(last, IGNORED)], 1)
    if documents is not None:
        further = paddle.where(documents.ends(), paddle.full_like(further, IGNORED), further)
    return own_share(paddle.concat([ids[:, 1:], last], 1)).reshape([-1]), own_share(further).reshape([-1])


def describe(
    model: Any,
    input_ids: Tensor,
    position_ids: Optional[Tensor] = None,
    attention_mask: Optional[Tensor] = None,
    cache: Optional[KVCache] = None,
    document_ids: Optional[Tensor] = None,
) -> Batch:
    """The Batch of token ids [b, s] of whole rows, with what the family makes of the ids in place of what isn't given.

    A mask [b, t] goes on top of the family's, one [b | 1, h | 1, s, t] takes its place.

    Raises:
        UsageError: rows hold several documents, and the family makes contexts of whole rows; and as `make_batch`.
    """
    told = model.describe(model.config, input_ids if cache is None else cache.extend(input_ids))
    start = 0 if cache is None else cache.length
    if position_ids is None and told[0] is not None:
        position_ids = told[0][..., start:]
    if told[1] is not None and (attention_mask is None or attention_mask.ndim == 2):
        seen = None if attention_mask is None else attention_mask.astype("bool").unsqueeze([1, 2])
        attention_mask = told[1][:, :, start:] if seen is None else told[1][:, :, start:] & seen
    if told[1] is not None and document_ids is not None:
        raise UsageError(
            f"{type(model).__name__} makes a context and the text after it of each row, and document_ids say that rows "
            "hold several documents: give rows of one document each, without document_ids"
        )
    return make_batch(own_share(input_ids), position_ids, attention_mask, cache, document_ids)


class TrainingStep:
    """Forward and backward over the micro batches of one step.

    Args:
        model: a CausalLM.
        micro_batches: see `read`.
        scale: factor of the gradients, not of the loss.
    """

    def __init__(self, model: Any, micro_batches: Sequence[MicroBatch], scale: float) -> None:
        self._model, self._scale = model, scale
        self._kept = total_over_data(kept_tokens([batch["labels"] for batch in micro_batches])).clip(min=1.0)
        self._sequences = sum(batch["input_ids"].shape[0] for batch in micro_batches) * topology().data.size
        self._readings = [read(model, batch) for batch in micro_batches]
        self.losses: List[Tensor] = []

    def run(self, between: Callable[[], object]) -> Tensor:
        """Leaves the gradients where `model.gradients` says; returns the mean loss of the global batch.

        Args:
            between: see `PipelineStep.run`.
        """
        model = self._model
        step = PipelineStep(len(model.chunks), self._hidden, self._forward, self._before_backward, self._backward_done)
        model.gradients.begin(len(self._readings))
        with _factors(self._scale / self._sequences, self._scale / self._kept):
            step.run(len(self._readings), between)
        model.gradients.finish()
        return total_loss(paddle.add_n([paddle.zeros([], "float32"), *self.losses]) / self._kept)

    def _hidden(self, micro: int) -> Hidden:
        return hidden_states(self._model, self._readings[micro].ids.shape[0])

    def _forward(self, chunk: int, micro: int, x: Optional[Tensor]) -> Tensor:
        beat.progress()
        model, (ids, labels, batch) = self._model, self._readings[micro]
        y = model.run(ids if x is None else x, batch, labels=labels, stages=model.chunks[chunk])
        if not is_last(chunk, len(model.chunks)):
            return y
        self.losses.append(y.detach())
        return y * (self._scale / self._kept)

    def _before_backward(self, chunk: int, micro: int) -> None:
        self._model.gradients.before_backward(self._model.chunks[chunk], self._is_last(micro))

    def _backward_done(self, chunk: int, micro: int) -> None:
        self._model.gradients.backward_done(self._model.chunks[chunk], self._is_last(micro))

    def _is_last(self, micro: int) -> bool:
        return micro == len(self._readings) - 1


@paddle.no_grad()
def evaluate(model: Any, micro_batch: MicroBatch) -> Tuple[Tensor, Tensor]:
    """(sum of the token losses, number of kept tokens) of one micro batch: float32 scalars, on every rank that reads
    it."""
    readings = [read(model, part) for part in _parts(micro_batch, topology().pp.size)]
    hidden = [hidden_states(model, reading.ids.shape[0]) for reading in readings]

    def forward(chunk: int, number: int, x: Optional[Tensor]) -> Tensor:
        ids, labels, batch = readings[number]
        return model.run(ids if x is None else x, batch, labels=labels, stages=model.chunks[chunk])

    losses = pass_through(len(model.chunks), hidden, forward)
    loss = from_last(paddle.add_n(losses) if losses else None, [])
    return topology().sequence.group.all_reduce(loss).wait(), kept_tokens([micro_batch["labels"]])


def _parts(micro_batch: MicroBatch, most: int) -> List[MicroBatch]:
    """A micro batch cut by rows into at most so many, that ranks of a pipeline work on at the same time."""
    rows, length = micro_batch["input_ids"].shape
    count = min(rows, most) if length % topology().tp.size == 0 else 1
    bounds = [rows * number // count for number in range(count + 1)]
    return [
        {name: value[a:b] if value.shape[0] == rows else value for name, value in micro_batch.items()}
        for a, b in zip(bounds, bounds[1:])
    ]


@paddle.no_grad()
def next_logits(model: Any, input_ids: Tensor, cache: KVCache) -> Tensor:
    """Logits [b, vocab], on every rank, of the token after `input_ids` [b, s], which are read after what `cache` holds
    and added to it."""
    beat.progress()
    texts, input_ids = input_ids.shape[0], _divisible(input_ids)
    batch = describe(model, input_ids, cache=cache)
    tokens = batch.size * batch.seq

    def forward(chunk: int, _: int, x: Optional[Tensor]) -> Tensor:
        stages, x = model.chunks[chunk], input_ids.reshape([-1]) if x is None else x
        if not is_last(chunk, len(model.chunks)):
            return model.run(x, batch, cache=cache, stages=stages)
        *before, head = stages
        last = _last_tokens(model.run(x, batch, cache=cache, stages=before), batch)
        return model.gradients.run_stage(head, head.whole_logits, last)

    logits = pass_through(len(model.chunks), [hidden_states(model, tokens)], forward)
    return from_last(logits[0] if logits else None, [batch.size, model.config.vocab_size])[:texts]


def _divisible(input_ids: Tensor) -> Tensor:
    """Under sequence parallelism, `input_ids` [b, s] with its last text repeated until b can be shared out over the
    tensor-parallel ranks: single tokens can't."""
    mesh = topology()
    missing = -input_ids.shape[0] % mesh.tp.size if mesh.sequence_parallel else 0
    return paddle.concat([input_ids, *[input_ids[-1:]] * missing]) if missing else input_ids


def _last_tokens(x: Tensor, batch: Batch) -> Tensor:
    """Hidden states of the last token of each text, of those of all tokens; both shared out as hidden states are."""
    mesh = topology()
    whole = comm.gather(x, mesh.tp.group) if mesh.sequence_parallel else x
    last = whole.reshape([batch.size, batch.seq, -1])[:, -1]
    return comm.cut(last, mesh.tp.group) if mesh.sequence_parallel else last


def hidden_states(model: Any, tokens: int) -> Hidden:
    """What travels between the parts of `model` for so many tokens."""
    mesh, policy = topology(), precision()
    rows = tokens // mesh.tp.size if mesh.sequence_parallel else tokens
    return Hidden(rows, model.config.hidden_size, "float32" if policy.emulated else policy.compute)


@contextmanager
def _factors(sequence: float, token: Tensor) -> Iterator[None]:
    """What the losses that are taken inside the model weigh in the gradients, while a step runs: those of a sequence,
    and those of a token."""
    set_balance_factor(sequence)
    set_token_factor(token)
    try:
        yield
    finally:
        set_balance_factor(None)
        set_token_factor(None)
