"""One rank of a launch that trains tiny models in many layouts."""

from __future__ import annotations

import os
from typing import Any, Dict, List

import numpy as np
from layouts import LAYOUTS, LENGTH, MODELS, SAMPLES, STEPS, VOCAB, steps_of


def arguments(changes: Dict[str, Any]) -> Any:
    from paddlenlp.trainer import PreTrainingArguments

    fixed = dict(
        output_dir="unused",
        do_train=True,
        max_steps=STEPS,
        max_grad_norm=0.5,
        per_device_train_batch_size=1,
        learning_rate=1e-3,
        weight_decay=0.1,
        device="cpu",
        report_to=["none"],
    )
    return PreTrainingArguments(**{**fixed, **changes})


def batches(step: int) -> Dict[str, np.ndarray]:
    """The global batch of a step; every sequence has another number of labels that don't count."""
    stream = np.random.RandomState(step)
    tokens = stream.randint(0, VOCAB, (SAMPLES, LENGTH + 1)).astype(np.int64)
    labels = tokens[:, 1:].copy()
    for row, masked in enumerate(stream.randint(0, LENGTH, SAMPLES)):
        labels[row, :masked] = -100
    return {"input_ids": tokens[:, :-1].copy(), "labels": labels}


def micro_batches(step: int, args: Any) -> List[Dict[str, Any]]:
    """What this rank reads of it."""
    import paddle

    whole, size = batches(step), args.per_device_train_batch_size
    rounds = SAMPLES // size // args.dataset_world_size
    starts = [(turn * args.dataset_world_size + args.dataset_rank) * size for turn in range(rounds)]
    return [{name: paddle.to_tensor(x[start : start + size]) for name, x in whole.items()} for start in starts]


class Run:
    """A model in one layout, ready to train."""

    def __init__(self, layout: Dict[str, Any], name: str, config: Dict[str, Any]) -> None:
        import paddlenlp.transformers as transformers
        from paddlenlp.nn import configure_run
        from paddlenlp.parallel import init_topology
        from paddlenlp.trainer.optimizer import build_optimizer
        from paddlenlp.trainer.step import TrainStep
        from paddlenlp.trainer.timers import Phases
        from paddlenlp.transformers.optimization import build_lr_scheduler

        self.args = arguments(layout)
        init_topology(self.args)
        configure_run(self.args)
        suffix = "ForCausalLMPipe" if self.args.pipeline_parallel_degree > 1 else "ForCausalLM"
        family = getattr(transformers, f"{name}{suffix}")
        self.model = family.from_config(getattr(transformers, f"{name}Config")(**config), dtype=self.args.dtype)
        self.model.train()
        schedule = build_lr_scheduler(self.args)
        self.optimizer = build_optimizer(self.model, self.args, schedule)
        self.step = TrainStep(self.model, self.optimizer, schedule, lambda event: None, Phases(False))

    def train(self, steps: int) -> Dict[str, List[float]]:
        results = [self.step.run(number, micro_batches(number, self.args)) for number in range(1, steps + 1)]
        return {"losses": [r.loss for r in results], "norms": [r.grad_norm for r in results]}

    def evaluate(self) -> float:
        """Loss of the batch behind the last step, over all tokens of all ranks."""
        from paddlenlp.parallel import topology

        self.model.eval()
        total, kept = 0.0, 0.0
        for batch in micro_batches(STEPS + 1, self.args):
            loss, count = self.model.eval_batch(batch)
            total, kept = total + loss, kept + count
        self.model.train()
        data = topology().data.group
        return float(data.all_reduce(total.clone()).wait()) / float(data.all_reduce(kept.clone()).wait())

    def weights(self) -> Dict[str, np.ndarray]:
        """Whole parameters of a model on one process."""
        return {piece.name: piece.weight.numpy().reshape(piece.param.whole_shape) for piece in self.optimizer.pieces}

    def distance(self, reference: Any) -> float:
        """The greatest difference of a weight from `reference`, as a share of the greatest weight of its tensor."""
        from paddlenlp.parallel import topology

        tp, worst = topology().tp, 0.0
        for piece in self.optimizer.pieces:
            share = piece.param.tp_layout.cut(reference[piece.name], tp.rank, tp.size).reshape(-1)
            own = piece.weight.numpy().reshape(-1)
            if own.size:
                gap = np.abs(own - share[piece.start : piece.stop]).max()
                worst = max(worst, float(gap / np.abs(share).max()))
        return worst


def one_process(payload: Dict[str, Any]) -> Dict[str, Any]:
    """Every model on one process, its weights left in `folder`; and the same with the batch in one piece."""
    found: Dict[str, Any] = {}
    for model in payload["models"]:
        run, steps = Run(payload["arguments"], *MODELS[model]), steps_of(model)
        found[model] = {str(steps): {**run.train(steps), "eval": run.evaluate()}}
        np.savez(os.path.join(payload["folder"], f"{model} {steps}.npz"), **run.weights())
        whole = {**payload["arguments"], "per_device_train_batch_size": SAMPLES}
        found[model]["in one piece"] = Run(whole, *MODELS[model]).train(steps)
    return found


def many_layouts(payload: Dict[str, Any]) -> Dict[str, Any]:
    """Every case of `cases` ([layout, model, steps]) in turn."""
    found = {}
    for layout, model, steps in payload["cases"]:
        run = Run({**LAYOUTS[layout].arguments, **payload["arguments"]}, *MODELS[model])
        found[f"{layout} | {model}"] = result = {**run.train(steps), "eval": run.evaluate()}
        reference = os.path.join(payload["folder"], f"{model} {steps}.npz")
        if os.path.exists(reference):
            result["distance"] = run.distance(np.load(reference))
    return found


def families(payload: Dict[str, Any]) -> Dict[str, Any]:
    """Every model of `models` in every layout of `layouts`, for some steps."""
    return {
        f"{layout} | {model}": Run(changes, *config).train(payload["steps"])
        for layout, changes in payload["layouts"].items()
        for model, config in payload["models"].items()
    }


def traffic(payload: Dict[str, Any]) -> Dict[str, Any]:
    """For every layout: (group, operation) -> [calls, bytes] of the second step, and sizes the formulas need."""
    from paddlenlp.parallel.group import traffic as counted

    found = {}
    for layout, changes in payload["layouts"].items():
        run = Run(changes, *payload["model"])
        run.train(1)
        counted.clear()
        read = micro_batches(2, run.args)
        run.step.run(2, read)
        parameters = [(name, param.size) for name, param in run.model.named_parameters()]
        found[layout] = {
            "wire": {" ".join(key): [counted.calls[key], counted.bytes[key]] for key in counted.calls},
            "parameters": parameters,
            "micro_batches": len(read),
            # Three numbers for each token that counts: greatest logit, sum of exponentials, own logit.
            "loss bytes": 12 * sum(int((batch["labels"] != -100).sum()) for batch in read),
        }
    return found


SAVED = ("TP", "PP")
"""The columns of the table of capabilities whose runs leave a checkpoint and continue a text."""


def capabilities(payload: Dict[str, Any]) -> Dict[str, Any]:
    """Every case [column, family] of `cases`: some steps; and with `SAVED` among the columns, what becomes of their
    checkpoints in each other's layout and in one process, which also gives the losses to compare with.

    The families are shared out over the ranks to be trained in one process: each rank has found some of them only.
    """
    os.fsync = lambda descriptor: None  # nobody takes the power away, and syncing is what takes time
    found = {f"{column} | {family}": _capability(payload, column, family) for column, family in payload["cases"]}
    saved = [(column, family) for column, family in payload["cases"] if column in SAVED]
    for column, family in saved:
        other = SAVED[1 - SAVED.index(column)]
        found[f"{column} | {family}"]["in the other"] = _reads(_run(payload, other, family), payload, column, family)
    families = list(dict.fromkeys(family for _, family in saved))
    rank, world = int(os.environ["PADDLE_TRAINER_ID"]), int(os.environ["PADDLE_TRAINERS_NUM"])
    for family in families[rank::world]:
        found[f"one | {family}"] = _in_one_process(payload, family)
    return found


def _run(payload: Dict[str, Any], column: str, family: str) -> Run:
    folder = os.path.join(payload["folder"], family, column)
    return Run({**payload["layouts"][column], "output_dir": folder}, *payload["models"][family])


def _capability(payload: Dict[str, Any], column: str, family: str) -> Dict[str, Any]:
    run = _run(payload, column, family)
    found: Dict[str, Any] = run.train(payload["steps"])
    if column in SAVED:
        from work_checkpoint import _save

        folder = _save(run, payload["steps"])
        found.update(saved=_holds(run, folder), tokens=_continued(run))
    return found


def _in_one_process(payload: Dict[str, Any], family: str) -> Dict[str, Any]:
    """Losses of some steps; for each of `SAVED`, whether its checkpoint is read, and how the text goes on with it."""
    before = dict(os.environ)
    os.environ.update(PADDLE_TRAINER_ID="0", PADDLE_TRAINERS_NUM="1")
    layouts = {"one": {"per_device_train_batch_size": 1}}
    found: Dict[str, Any] = _run({**payload, "layouts": layouts}, "one", family).train(payload["steps"])
    for column in SAVED:
        run = _run({**payload, "layouts": layouts}, "one", family)
        found[column] = _reads(run, payload, column, family)
        found[f"{column} tokens"] = _continued(run)
    os.environ.update(before)
    return found


def _reads(run: Run, payload: Dict[str, Any], column: str, family: str) -> bool:
    """Whether a fresh run has, bit for bit, what the checkpoint of a column holds, once it has read that."""
    from pathlib import Path

    from work_checkpoint import _load

    folder = Path(payload["folder"], family, column, f"checkpoint-{payload['steps']}")
    fresh = _holds(run, folder)
    _load(run, folder)
    return _holds(run, folder) and not fresh


def _holds(run: Run, folder: Any) -> bool:
    """Whether weights and moments of this rank are bitwise its share of those of a checkpoint."""
    from paddlenlp.parallel import topology
    from paddlenlp.utils.tensor_files import TensorFiles

    tp, weights, states = topology().tp, TensorFiles(folder), TensorFiles(folder, "optimizer")
    pairs = [
        (param.numpy(), param.tp_layout.cut(weights[name], tp.rank, tp.size))
        for name, param in run.model.named_parameters()
    ]
    for piece in run.optimizer.pieces:
        for key in ("moment1_0", "moment2_0"):
            share = piece.param.tp_layout.cut(states[f"{piece.name}/{key}"], tp.rank, tp.size)
            pairs.append((run.optimizer.states(piece)[key].numpy(), share.reshape(-1)[piece.start : piece.stop]))
    return all(own.tobytes() == np.ascontiguousarray(share).tobytes() for own, share in pairs)


def _continued(run: Run) -> List[List[int]]:
    """Two texts of which one has the token that ends a context, and the tokens drawn after them."""
    prompt = [[1, 7, 5, 9, 2, 33], [11, 5, 60, 9, 2, 8]]
    return run.model.generate(prompt, max_new_tokens=4, do_sample=True, seed=3).tolist()
