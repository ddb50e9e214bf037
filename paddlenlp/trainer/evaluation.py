"""The loss on data the model does not train on."""

from __future__ import annotations

import math
import time
from typing import Any, Callable, Dict, NamedTuple, Optional

import paddle

from paddlenlp.data import DistributedBatchSampler
from paddlenlp.parallel.objects import from_first
from paddlenlp.parallel.topology import topology
from paddlenlp.trainer.batches import make_loader, samples_of
from paddlenlp.trainer.metrics import perplexity, speed_metrics
from paddlenlp.trainer.reading import Reader
from paddlenlp.trainer.undisturbed import eval_mode, weights_in
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger


class PredictionOutput(NamedTuple):
    """What `Trainer.predict` returns; a pretraining run keeps only the metrics."""

    predictions: Any
    label_ids: Any
    metrics: Dict[str, float]


class EvalPlan(NamedTuple):
    """Which samples an evaluation reads: `batches` batches of `batch_size` per rank, from sample `start` on."""

    start: int
    batches: int
    batch_size: int
    samples: int


def plan_evaluation(args: Any, dataset_size: int, iters: int, number: int = 0) -> EvalPlan:
    """The samples of evaluation `number` (0, 1, ...): each takes the `iters` batches behind those of the last.

    It depends on nothing but its arguments, so a resumed run evaluates on the same samples. `max_evaluate_steps` bounds
    the batches. A dataset too short for that many evaluations is read from its beginning again.

    Raises:
        UsageError: the dataset has no sample for every rank.
    """
    if dataset_size < args.dataset_world_size:
        raise UsageError(
            f"The evaluation set has {dataset_size} sample(s). Give it a larger share with `split`, or do not evaluate."
        )
    if args.max_evaluate_steps > 0:
        iters = min(iters, args.max_evaluate_steps)
    whole = args.per_device_eval_batch_size * args.dataset_world_size
    start = number * iters * whole
    if start + iters * whole > dataset_size:
        start = 0
    samples = min(iters * whole, dataset_size - start)
    samples -= samples % args.dataset_world_size  # every rank reads as many as the others
    return EvalPlan(start, math.ceil(samples / whole), args.per_device_eval_batch_size, samples)


def run_evaluation(
    model: Any,
    args: Any,
    dataset: Any,
    collate: Callable[..., Any],
    plan: EvalPlan,
    prefix: str = "eval",
    after_batch: Optional[Callable[[int], None]] = None,
) -> Dict[str, float]:
    """Mean loss over all kept tokens of the planned samples, each token with the same weight.

    Random numbers, training mode and weights are the same afterwards as before. All ranks take part, and the loss is
    the same on all of them. A signal ends it before a batch, if signals are deferred.

    Args:
        model: has `eval_batch(batch) -> (sum of token losses, kept tokens)`, of the samples that this rank reads.
        after_batch: called with the number of batches in the plan after each one.

    Returns:
        `{prefix}_loss`, `_runtime`, `_samples_per_second`, `_steps_per_second`, `_ppl`, in this order.
    """
    start = time.time()
    sums, samples, steps = paddle.zeros([2], "float64"), 0, 0
    with eval_mode(model), weights_in(model, args.eval_dtype):
        for batch in _batches(args, dataset, collate, plan):
            sums += paddle.stack([part.astype("float64") for part in model.eval_batch(batch)])
            samples += samples_of([batch])
            steps += 1
            if after_batch is not None:
                after_batch(plan.batches)
        # Waits for the device: only now the time is that of the work.
        total, kept = map(float, topology().data.group.all_reduce(sums).wait())
        loss = from_first(total / max(kept, 1.0))
    speed = speed_metrics(prefix, start, samples * args.dataset_world_size, steps)
    return {f"{prefix}_loss": loss, **speed, f"{prefix}_ppl": perplexity(loss)}


def _batches(args: Any, dataset: Any, collate: Callable[..., Any], plan: EvalPlan) -> Any:
    sampler = DistributedBatchSampler(
        len(dataset),
        plan.batch_size,
        num_replicas=args.dataset_world_size,
        rank=args.dataset_rank,
        consumed_samples=plan.start,
        drop_last=False,
    )
    # Few batches: starting worker processes would take longer than reading them here.
    batches = make_loader(dataset, sampler, collate)
    with Reader() as reader:
        for _ in range(plan.batches):
            yield reader.read(batches)


def announce(title: str, plan: EvalPlan, world_size: int) -> None:
    """The block of lines that opens an evaluation; the words are those log readers look for."""
    logger.info(f"***** Running {title} *****")
    logger.info(f"  Num examples = {plan.samples}")
    logger.info(f"  Total prediction steps = {plan.batches}")
    logger.info(f"  Pre device batch size = {plan.batch_size}")
    logger.info(f"  Total Batch size = {plan.batch_size * world_size}")
