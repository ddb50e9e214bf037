"""Gradients of jobs of several processes: data parallelism and the sharding stages 1 to 3 (Rajbhandari et al.,
arXiv:1910.02054) over one list of buckets.

| stage | what each of the n ranks of the sharding group keeps 1/n of | what it sends for each bucket             |
|-------|------------------------------------------------------------|-------------------------------------------|
| 0     | nothing                                                    | all-reduce once a step                    |
| 1     | moments and masters                                        | reduce-scatter and all-gather once a step |
| 2     | and summed gradients                                       | the former for each micro batch           |
| 3     | and parameters, but for those of the stages in use         | and two all-gathers for each micro batch  |

So stages 2 and 3 pay for their memory in every micro batch: with many of them to a step, as pipelines have, stage 1
sends least. Ranks that hold the same share (replicas: other data-parallel groups, ranks that share a sequence) sum it
once a step, after the last backward pass; so do tensor-parallel ranks where each has a part of a gradient, and the ends
of a pipeline for a tied table.

Within a backward pass the exchange of a bucket starts as soon as its gradients are there, always in the same order. It
is never waited for while a gradient arrives, only at stages' boundaries and at the end, which all ranks reach having
sent the same: otherwise a rank whose experts got no tokens could wait for one that waits for it.
"""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import contextmanager
from functools import partial
from typing import Any, Callable, Deque, Iterator, List, Optional, Sequence

from paddle import Tensor, nn

from paddlenlp.nn import kernels

from .buckets import Bucket, plan
from .gathered import GatheredStages
from .gradients import Gradients, Piece, WholeGradients
from .topology import topology


def build_gradients(model: Any, stage: int, bucket_bytes: int) -> Gradients:
    """What `model.gradients` has to be in this job.

    Args:
        model: a `StagedModel`.
        stage: of sharding; 0 for none.
        bucket_bytes: size of the buckets in which gradients and parameters travel.
    """
    if topology().world.size == 1:
        return WholeGradients(model)
    return ShardedGradients(model, stage, bucket_bytes)


class ShardedGradients(Gradients):
    """See the top of this file. Parameters become views of the buckets' storage; gradients are never in `param.grad`
    after a backward pass that was announced by `before_backward`.

    A step that is not cleared is forgotten when the next one begins.
    """

    def __init__(self, model: Any, stage: int, bucket_bytes: int) -> None:
        self._place = {id(layer): place for place, layer in enumerate(model.order)}
        self.frozen = [name for name, param in model.named_parameters() if param.stop_gradient]
        self._stage = stage
        self._by_stage = stage >= 2 or topology().pp.size > 1
        self._buckets = plan(model, bucket_bytes, self._by_stage)
        self._waiting: Deque[Bucket] = deque()
        self._sent: List[Bucket] = []
        self._listening = False
        used = [model.parameters_of(layer) for layer in model.order]
        self._gathered = GatheredStages(used, self._buckets) if stage == 3 else None
        self._pieces = {piece.name: (piece, bucket) for bucket in self._buckets for piece in bucket.pieces()}
        for place, bucket in enumerate(self._buckets):
            for index, member in enumerate(bucket.members):
                _listen(member.param, partial(_on_gradient, weakref.ref(self), place, index))
                _sum_in_products(member.param, partial(_gradient_sum, weakref.ref(self), place, index))

    @property
    def pieces(self) -> List[Piece]:
        return [piece for piece, _ in self._pieces.values()]

    # ---- a step ----------------------------------------------------------------------------------------------

    def begin(self, micro_batches: int) -> None:
        self.clear()
        if self._gathered:
            self._gathered.end_backward()

    def before_backward(self, stages: Sequence[nn.Layer], last: bool) -> None:
        self._waiting = deque(bucket for bucket in self._of(stages) if last or self._sends_always(bucket))
        self._listening = True
        if self._gathered:
            self._gathered.stages_together([self._place[id(layer)] for layer in stages])

    def backward_done(self, stages: Sequence[nn.Layer], last: bool) -> None:
        self._listening = False
        while self._waiting:
            self._send_next()
        for bucket in self._of(stages):
            bucket.end_pass()
        if self._stage >= 2:
            self._settle(-1)
        if self._gathered:
            self._gathered.end_backward()

    def finish(self) -> None:
        self._settle(-1)
        for name in ("replica", "tp", "ends"):
            for work in [bucket.sum_over(name) for bucket in self._buckets]:
                work.wait()

    def _of(self, stages: Sequence[nn.Layer]) -> List[Bucket]:
        """The buckets of stages whose backward pass is one."""
        places = {self._place[id(layer)] for layer in stages}
        return [bucket for bucket in self._buckets if not self._by_stage or bucket.stage in places]

    def _sends_always(self, bucket: Bucket) -> bool:
        """Whether its gradients leave after every backward pass, not only after the last of the step."""
        return self._stage >= 2 and bucket.shard.size > 1

    def _collect(self, bucket: Bucket, member: int) -> None:
        """A gradient has come."""
        if not self._listening:
            return
        bucket.collect(bucket.members[member])
        while self._waiting and self._waiting[0].is_full:
            self._send_next()

    def _send_next(self) -> None:
        bucket = self._waiting.popleft()
        bucket.send()
        self._sent.append(bucket)

    def _settle(self, stage: int) -> None:
        """Send and wait for what belongs to stages behind `stage`."""
        while self._waiting and self._waiting[0].stage > stage:
            self._send_next()
        for bucket in self._sent:
            if bucket.stage > stage:
                bucket.settle()
        self._sent = [bucket for bucket in self._sent if bucket.work is not None]

    # ---- pieces ----------------------------------------------------------------------------------------------

    def gradient(self, piece: Piece) -> Optional[Tensor]:
        bucket = self._pieces[piece.name][1]
        return None if bucket.sum is None else bucket.within(piece, bucket.sum).astype("float32")

    def publish(self) -> None:
        masters = [(piece, bucket) for piece, bucket in self._pieces.values() if piece.master]
        kernels.each(lambda pair: pair[1].round(pair[0]), masters)
        if self._gathered:
            self._gathered.forget()
        else:
            self._publish_shares()

    def _publish_shares(self) -> None:
        """Every rank's share, updated, into the storage of all: one gather under way while another is copied."""
        shared = [bucket for bucket in self._buckets if bucket.shard.size > 1]
        for bucket, following in zip(shared, [*shared[1:], None]):
            bucket.start_gather()
            if following is not None:
                following.start_gather()
            bucket.finish_gather()

    def clear(self) -> None:
        for bucket in self._buckets:
            bucket.clear()
        self._sent, self._waiting = [], deque()

    # ---- stages ----------------------------------------------------------------------------------------------

    def run_stage(self, layer: nn.Layer, run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        if self._stage < 2:
            return run(x)
        place = self._place[id(layer)]
        if self._gathered:
            with self._gathered.in_use(place):
                y = run(x)
        else:
            y = run(x)
        if not y.stop_gradient:
            y.register_hook(partial(self._backward_reaches, place))
        return y

    def _backward_reaches(self, place: int, grad: Tensor) -> None:
        """The gradient of a stage's output is there: its backward pass is next, and the one behind it is over.

        Except that operations on a parameter alone (a cast, a norm of the head's matrix) may still be queued behind
        this moment. So what is over for certain is the stage but one.
        """
        if self._gathered:
            self._gathered.backward_reaches(place)
        if self._listening:
            self._settle(place + 1)

    @contextmanager
    def whole(self, *layers: nn.Layer) -> Iterator[None]:
        if self._gathered is None:
            yield
            return
        with self._gathered.set_by_user([self._place[id(layer)] for layer in layers]):
            yield

    @property
    def reads_whole(self) -> bool:
        return self._gathered is None


def _on_gradient(owner: Any, bucket: int, member: int) -> None:
    """Tell who owns the buckets, if it still exists. Named by numbers, since what a hook refers to is never freed."""
    gradients = owner()
    if gradients is not None:
        gradients._collect(gradients._buckets[bucket], member)


def _gradient_sum(owner: Any, bucket: int, member: int) -> Optional[Tensor]:
    """What a matrix product adds the gradient of a member to; the member's hook is called all the same."""
    gradients = owner()
    if gradients is None or not gradients._listening:
        return None
    found = gradients._buckets[bucket]
    return found.gradient_sum(found.members[member])


def _sum_in_products(param: Any, gradient_sum: kernels.GradientSum) -> None:
    param.gradient_sum = gradient_sum if kernels.adds_products(param) else None


def _listen(param: Any, function: Callable[[], None]) -> None:
    """Have `function` called when a backward pass has left a gradient in `param`, in place of an earlier one: Paddle
    can't take such a hook off again."""
    if not hasattr(param, "listener"):
        param.listener = listener = [function]
        param._register_backward_hook(lambda *_: listener[0]())
    param.listener[0] = function
