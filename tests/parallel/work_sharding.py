"""One rank of a launch that trains a tiny model under data parallelism and sharding."""

from __future__ import annotations

import os
from typing import Any, Dict, List

import numpy as np
from work_layouts import arguments

SAMPLES, LENGTH, VOCAB = 12, 16, 64
BUCKET = 8192
"""Bytes: several buckets to a layer."""


def batch(step: int) -> Dict[str, np.ndarray]:
    """The global batch of a step, with another number of kept labels in every sequence, none in the first."""
    stream = np.random.RandomState(step)
    tokens = stream.randint(0, VOCAB, (SAMPLES, LENGTH + 1)).astype(np.int64)
    labels = tokens[:, 1:].copy()
    for row, masked in enumerate([LENGTH, *stream.randint(0, LENGTH, SAMPLES - 1)]):
        labels[row, :masked] = -100
    return {"input_ids": tokens[:, :-1].copy(), "labels": labels}


class Training:
    """A model and its optimizer in one layout.

    Args:
        layout: arguments of the layout and of precision.
        micro_batches: to a step.
        bucket: bytes.
        frozen: what the names of parameters contain that are not trained.
        model: changes of the configuration.
    """

    def __init__(
        self, layout: Dict[str, Any], micro_batches: int = 1, bucket: int = BUCKET, frozen: str = "-", **model: Any
    ) -> None:
        from paddlenlp.nn import configure_run
        from paddlenlp.parallel import init_topology
        from paddlenlp.parallel.sharding import build_gradients
        from paddlenlp.trainer.loss_scaler import LossScaler
        from paddlenlp.trainer.optimizer import Optimizer
        from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM

        self.args = arguments(layout)
        self.count = micro_batches
        init_topology(self.args)
        configure_run(self.args)
        sizes = dict(
            vocab_size=VOCAB,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=64,
        )
        self.model = LlamaForCausalLM.from_config(LlamaConfig(**{**sizes, **model}), dtype=self.args.dtype)
        self.model.train()
        for name, param in self.model.named_parameters():
            param.stop_gradient = frozen in name
        self.model.gradients = build_gradients(self.model, self.args.sharding_stage, bucket)
        scaler = LossScaler(1024.0) if self.args.fp16 else None
        limits = dict(weight_decay=0.1, max_grad_norm=0.5)
        self.optimizer = Optimizer(self.model.gradients, 3e-3, scaler=scaler, **limits)

    def micro_batches(self, step: int) -> List[Dict[str, Any]]:
        import paddle

        whole, ranks = batch(step), self.args.dataset_world_size
        size = SAMPLES // ranks // self.count
        starts = [(turn * ranks + self.args.dataset_rank) * size for turn in range(self.count)]
        return [{name: paddle.to_tensor(x[start : start + size]) for name, x in whole.items()} for start in starts]

    def step(self, number: int) -> List[Any]:
        """[loss, norm, whether it was applied] of one step."""
        loss = float(self.model.train_batch(self.micro_batches(number), self.optimizer.loss_scale))
        report = self.optimizer.step()
        self.optimizer.clear_grad()
        return [loss, report.grad_norm, report.applied]

    def weights(self) -> Dict[str, np.ndarray]:
        """All parameters, whole, as float32."""
        with self.model.gradients.whole(*self.model.order):
            return {name: p.astype("float32").numpy() for name, p in self.model.named_parameters()}

    def pieces(self) -> Dict[str, np.ndarray]:
        """Everything that this rank's part of the optimizer holds."""
        found = {}
        for piece in self.optimizer.pieces:
            found[piece.name] = piece.weight.numpy()
            found.update({f"{piece.name}/{key}": x.numpy() for key, x in self.optimizer.states(piece).items()})
        return found


def run(case: Dict[str, Any], folder: str) -> Dict[str, Any]:
    """Train as `case` says (steps, and what Training takes) and compare the weights with those in `folder`, or where
    there is one process write them."""
    case = dict(case)
    steps, name = case.pop("steps"), case.pop("weights")
    training = Training(**case)
    found = {"steps": [training.step(number) for number in range(steps)]}
    weights, file = training.weights(), os.path.join(folder, f"{name}.npz")
    if training.args.world_size == 1:
        np.savez(file, **weights)
    else:
        expected = np.load(file)
        gaps = [np.abs(weights[key] - expected[key]).max() / np.abs(expected[key]).max() for key in weights]
        found["distance"] = float(max(gaps))
    return found


def runs(payload: Dict[str, Any]) -> Dict[str, Any]:
    """The cases, and on several ranks what else is to be seen of sharding."""
    found = {name: run(case, payload["folder"]) for name, case in payload["cases"].items()}
    for name, (function, options) in payload.get("others", {}).items():
        found[name] = globals()[function](**options)
    return found


def overflow(layout: Dict[str, Any]) -> Dict[str, Any]:
    """A gradient of the last rank, of one parameter, is infinite in one step."""
    import paddle

    from paddlenlp.parallel import topology

    training = Training({**layout, "fp16": True, "fp16_opt_level": "O2"})
    first, before = training.step(0), training.pieces()
    infinite = topology().world.is_last

    def spoil(grad: Any) -> Any:
        return paddle.full_like(grad, float("inf")) if infinite else grad

    hook = training.model.order[-2].weight.register_hook(spoil)
    second, after = training.step(1), training.pieces()
    hook.remove()
    scale = training.optimizer.loss_scale
    third = training.step(2)
    same = all(before[key].tobytes() == after[key].tobytes() for key in before)
    return {"applied": [first[2], second[2], third[2]], "same": same, "scale": scale, "loss": third[0]}


def resumed(layout: Dict[str, Any]) -> bool:
    """Whether state taken after two steps, put into a new optimizer, goes on bitwise."""
    import paddle

    one = Training(layout, 2)
    for number in range(2):
        one.step(number)
    weights, state = one.weights(), one.pieces()
    expected = [one.step(number) for number in (2, 3)]
    two = Training(layout, 2)
    with two.model.gradients.whole(*two.model.order):
        for name, param in two.model.named_parameters():
            param.set_value(paddle.to_tensor(weights[name]).astype(param.dtype))
    for piece in two.optimizer.pieces:
        two.optimizer.load_weight(piece, state[piece.name])
        for key in two.optimizer.states(piece):
            two.optimizer.load_states(piece, key, state[f"{piece.name}/{key}"])
    two.optimizer.publish()
    found = [two.step(number) for number in (2, 3)]
    one_state, two_state = one.pieces(), two.pieces()
    return found == expected and all(one_state[key].tobytes() == two_state[key].tobytes() for key in one_state)


def set_values(layout: Dict[str, Any]) -> Dict[str, Any]:
    """What parameters set within `whole` are afterwards, and what is left of them in memory."""
    import paddle

    training = Training(layout)
    norm = training.model.order[-2]
    with training.model.gradients.whole(norm):
        norm.weight.set_value(np.arange(32, dtype="float32"))
    held = bool(norm.weight._is_initialized())
    with training.model.gradients.whole(norm):
        read = norm.weight.numpy().tolist()
    training.model.eval()
    with paddle.no_grad():
        losses = [float(training.model.eval_batch(training.micro_batches(0)[0])[0]) for _ in range(2)]
    return {"held": held, "read": read, "losses": losses}


def partly_frozen(layout: Dict[str, Any]) -> Dict[str, Any]:
    """Steps of a model with some frozen matrices."""
    training = Training(layout, frozen="layers.0.mlp")
    before = training.weights()
    found = [training.step(number) for number in range(3)]
    after = training.weights()
    kept = sorted(name for name in before if (after[name] == before[name]).all())
    return {"steps": found, "kept": kept, "frozen": sorted(training.model.gradients.frozen)}


def sent(layout: Dict[str, Any], micro_batches: int) -> Dict[str, List[int]]:
    """Calls and bytes of one step: "group operation" -> both; and what the formulas need."""
    from paddlenlp.parallel.group import traffic

    training = Training(layout, micro_batches)
    training.step(0)
    traffic.clear()
    training.step(1)
    found = {" ".join(key): [calls, traffic.bytes[key]] for key, calls in traffic.calls.items()}
    buckets = training.model.gradients._buckets
    return {**found, "buckets": [len(buckets), sum(bucket.size for bucket in buckets)]}


def memory(layout: Dict[str, Any]) -> Dict[str, int]:
    """Bytes allocated by a model and its optimizer between and within steps."""
    import gc

    from paddle.base import core

    def allocated() -> int:
        gc.collect()
        return core.host_memory_stat_current_value("Allocated", 0)

    start = allocated()
    sizes = dict(hidden_size=64, intermediate_size=256, num_hidden_layers=6, vocab_size=256)
    training = Training(layout, 2, 1 << 16, **sizes)
    between = allocated() - start
    core.host_memory_stat_reset_peak_value("Allocated", 0)
    training.model.train_batch(training.micro_batches(0))
    peak = core.host_memory_stat_peak_value("Allocated", 0) - start
    before_update = allocated() - start
    training.optimizer.step()
    training.optimizer.clear_grad()
    after = allocated() - start
    numbers = sum(int(np.prod(param.shape)) for param in training.model.parameters())
    stages = [sum(int(np.prod(param.shape)) for param in layer.parameters()) for layer in training.model.order]
    return {
        "parameters": 4 * numbers,
        "largest stage": 4 * max(stages),
        "between": between,
        "before update": before_update,
        "after": after,
        "peak": peak,
    }
