"""One rank of the test of agree.py, and of what the trainer sums over ranks."""

from __future__ import annotations

import os
import time
from typing import Any, Callable, Dict, List, Tuple


def setup(**degrees: Any) -> Any:
    """The arguments of a job in this layout, whose groups are formed."""
    import paddle

    from paddlenlp.parallel import init_topology
    from paddlenlp.trainer import PreTrainingArguments

    paddle.set_device("cpu")
    args = PreTrainingArguments("unused", device="cpu", **degrees)
    init_topology(args)
    return args


def said(action: Callable[[], Any]) -> List[str]:
    """[kind of error, message], or [] where `action` passes."""
    try:
        action()
    except Exception as error:
        return [type(error).__name__, str(error)]
    return []


def all_do(payload: Dict[str, Any]) -> Any:
    """A slow rank, a failing rank, and a rank that fails while another would wait for ever."""
    import paddlenlp.parallel.agree as agree

    setup()
    agree.BEAT = 0.05
    rank = int(os.environ["PADDLE_TRAINER_ID"])

    def slow() -> Tuple[int, float]:
        time.sleep(0.5 * (rank == 1))
        return rank * 10, time.monotonic()

    def failing() -> None:
        if rank == 1:
            raise ValueError("no room")
        time.sleep(0.2)

    def endless() -> None:
        if rank == 0:
            raise ValueError("gone")
        time.sleep(3600)

    value, over = agree.all_do(slow)
    return {
        "value": value,
        "over": over,
        "left": time.monotonic(),
        "failing": said(lambda: agree.all_do(failing)),
        "endless": said(lambda: agree.all_do(endless)),
    }


class Model:
    """Every token of a sample costs its number: the loss of a set of samples is known."""

    training = False

    def eval(self) -> None:
        """Nothing to switch."""

    train = eval

    def eval_batch(self, batch: Dict[str, Any]) -> Any:
        """(sum, number) of the token losses."""
        ids = batch["input_ids"].astype("float32")
        return ids.sum(), (ids >= 0).astype("float32").sum()


class Numbers:
    """Sample i holds i four times."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> Any:
        import numpy as np

        return {"text": np.full([5], index, "int64")}


def evaluations(payload: Dict[str, Any]) -> Any:
    """The loss of each (layout, size of the evaluation set), and the tokens counted."""
    from paddlenlp.data import collate_causal_lm
    from paddlenlp.trainer.batches import TrainBatches, real_tokens_of, samples_of
    from paddlenlp.trainer.evaluation import plan_evaluation, run_evaluation

    found = []
    for degrees, size in payload:
        args = setup(per_device_eval_batch_size=2, per_device_train_batch_size=2, **degrees)
        plan, ticks = plan_evaluation(args, size, 100), []
        metrics = run_evaluation(Model(), args, Numbers(size), collate_causal_lm, plan, after_batch=ticks.append)
        steps = list(TrainBatches(Numbers(size), collate_causal_lm, args).one_pass())
        read = [[int(row[0]) for batch in step for row in batch["input_ids"]] for step in steps]
        tokens = real_tokens_of(steps[0], padding=0)
        found.append([metrics["eval_loss"], plan.samples, len(ticks), plan.batches, read, tokens, samples_of(steps[0])])
    return found
