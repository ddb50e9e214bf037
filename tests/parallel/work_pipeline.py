"""One rank of a launch that runs tiny models through pipelines, each beside the same model that is not in a pipeline.

That is the whole model in this process; or, under tensor parallelism, where sums have another order, the model in as
many tensor-parallel ranks, twice, each copy reading the same: their means count every token twice, which no bit of them
shows, and their gradients are halves.
"""

from __future__ import annotations

import os
from typing import Any, Dict, List

import numpy as np

RANK = int(os.environ.get("PADDLE_TRAINER_ID", "0"))
SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=64,
    initializer_range=0.2,
)


def micro_batches(rows: List[int], masked: bool = False) -> List[Dict[str, Any]]:
    """Micro batches of so many rows of 8 tokens, some labels left out; perhaps with positions and masks of the rows."""
    import paddle

    stream, found = np.random.RandomState(7), []
    for count in rows:
        tokens = stream.randint(0, SIZES["vocab_size"], (count, 9)).astype(np.int64)
        labels = np.where(stream.random_sample((count, 8)) < 0.3, -100, tokens[:, 1:])
        arrays = {"input_ids": tokens[:, :-1], "labels": labels}
        if masked:
            seen = np.tril(stream.random_sample((count, 1, 8, 8)) < 0.7) | np.eye(8, dtype=bool)
            arrays.update(position_ids=stream.randint(0, 9, (count, 8)), attention_mask=seen)
        found.append({name: paddle.to_tensor(array) for name, array in arrays.items()})
    return found


class Setting:
    """A mesh and policies; one process without arguments."""

    def __init__(
        self,
        chunks: int = 1,
        partial: bool = True,
        recompute: Any = None,
        sp: bool = False,
        low: bool = False,
        **mesh: int,
    ) -> None:
        self.chunks, self.partial, self.mesh = chunks, partial, mesh
        self.recompute, self.sp, self.low = recompute, sp, low

    def without_pipeline(self) -> Setting:
        """The setting to compare with."""
        tp = self.mesh.get("tp", 1)
        mesh = dict(dp=self.mesh["pp"], tp=tp) if tp > 1 else {}
        return Setting(recompute=self.recompute, sp=self.sp, low=self.low, **mesh)

    def build(self, config: Dict[str, Any]) -> Any:
        import paddlenlp.transformers as transformers
        from paddlenlp.nn.precision import Precision, set_precision
        from paddlenlp.nn.recompute import RecomputePolicy, set_recompute
        from paddlenlp.parallel.mesh import Mesh
        from paddlenlp.parallel.pipeline import set_partial_exchange, set_virtual_stages
        from paddlenlp.parallel.topology import set_topology

        mesh = Mesh(**self.mesh)
        set_topology(mesh, RANK if mesh.world > 1 else 0, sequence_parallel=self.sp)
        set_partial_exchange(self.partial)
        set_virtual_stages(self.chunks)
        set_recompute(RecomputePolicy(**(self.recompute or {})))
        set_precision(Precision("bfloat16", "bfloat16", "float32", True) if self.low else Precision())
        values = {**SIZES, **config}
        values.pop("masked", None)
        family = values.pop("family", "Llama")
        model = getattr(transformers, f"{family}ForCausalLMPipe")
        config = getattr(transformers, f"{family}Config")(**values)
        return model.from_config(config, dtype="bfloat16" if self.low else "float32")


def _trained(setting: Setting, config: Dict[str, Any], rows: List[int]) -> Dict[str, Any]:
    """Loss, gradients and what else a model says after one step, as seen by this rank."""
    import paddle

    from paddlenlp.parallel import topology

    model = setting.build(config)
    model.train()
    masked = config.get("masked", False)
    loss = float(model.train_batch(micro_batches(rows, masked), scale=8.0 * topology().dp.size))
    found = {
        "model": model,
        "loss": loss,
        "gradients": {name: _complete(param) for name, param in model.named_parameters()},
        "params": dict(model.named_parameters()),
        "size": [model.num_parameters(), model.flops_per_token(8)],
    }
    model.eval()
    found["eval"] = [float(value) for value in model.eval_batch(micro_batches([3], masked)[0])]
    prompt = paddle.to_tensor(np.arange(10).reshape(2, 5))
    found["greedy"] = model.generate(prompt, max_new_tokens=4).tolist()
    found["drawn"] = model.generate(prompt, max_new_tokens=4, do_sample=True, seed=3).tolist()
    return found


def _complete(param: Any) -> np.ndarray:
    """A gradient with what the other ranks know of it: what `model.gradients.finish` does in a run."""
    from paddlenlp.parallel import topology

    mesh, gradient = topology(), param.grad.clone()
    if param.tied_ends:
        gradient = mesh.ends.group.all_reduce(gradient).wait()
    if mesh.sequence_parallel and param.partial_grad == "sequence":
        gradient = mesh.tp.group.all_reduce(gradient).wait()
    return gradient.numpy()


def compare(payload: Dict[str, Any]) -> List[Dict[str, Any]]:
    """For each case (setting, config, rows of the micro batches): how the model in a pipeline differs from that in
    none."""
    whole: Dict[str, Any] = {}
    results = []
    for setting, config, rows in payload["cases"]:
        reference = Setting(**setting).without_pipeline()
        key = repr((vars(reference), config, rows))
        if key not in whole:
            whole[key] = _trained(reference, config, rows)
        results.append(_compared(whole[key], _trained(Setting(**setting), config, rows)))
    return results


def _compared(whole: Dict[str, Any], part: Dict[str, Any]) -> Dict[str, Any]:
    odd, worst = [], 0.0
    for name, gradient in part["gradients"].items():
        expected = whole["gradients"][name]
        if not np.array_equal(gradient, expected):
            odd.append(name)
        worst = max(worst, float(np.linalg.norm(gradient - expected) / np.linalg.norm(expected)))
    keys = ("loss", "size", "greedy", "drawn")
    return {
        "whole": {key: whole[key] for key in keys},
        "part": {key: part[key] for key in keys},
        "eval": [whole["eval"], part["eval"]],
        "not bitwise": odd,
        "worst": worst,
        "names": list(part["gradients"]),
        "all names": list(whole["gradients"]),
        "tied ends": [name for name, param in part["params"].items() if param.tied_ends],
        "same start": all(
            np.array_equal(param.numpy(), whole["params"][name].numpy()) for name, param in part["params"].items()
        ),
        "indices": [layer.index for layer in part["model"].order if hasattr(layer, "index")],
        "stages": [[layer.stage_name for layer in chunk] for chunk in part["model"].chunks],
    }


def partial_exchange(payload: Dict[str, Any]) -> Dict[str, Any]:
    """Loss and gradients with each rank sending its part of the rows and with all sending all, and the bytes sent."""
    from paddlenlp.parallel.group import traffic

    found: Dict[str, Any] = {"same": [], "bytes": []}
    for rows in payload["rows"]:
        runs = []
        for partial in (True, False):
            model = Setting(partial=partial, **payload["setting"]).build(payload["config"])
            traffic.clear()
            loss = float(model.train_batch(micro_batches(rows)))
            sent = sum(size for (_, operation), size in traffic.bytes.items() if operation == "send")
            runs.append((loss, [param.grad.numpy() for param in model.parameters()], sent))
        (loss, gradients, sent), (other_loss, others, other_sent) = runs
        same = all(np.array_equal(a, b) for a, b in zip(gradients, others))
        found["same"].append(loss == other_loss and same)
        found["bytes"].append([sent, other_sent])
    return found


def refusals(payload: Dict[str, Any]) -> Dict[str, str]:
    """What is said to those who ask for what a pipeline can't do."""
    from paddlenlp.transformers.llama.configuration import LlamaConfig
    from paddlenlp.transformers.llama.modeling import LlamaModel

    setting, few = Setting(pp=2), Setting(pp=2, chunks=3)
    model = setting.build({})
    ids = micro_batches([1])[0]["input_ids"]
    interleaved = Setting(pp=2, chunks=2).build({})
    return {
        "forward": _message(lambda: model(ids)),
        "no head": _message(lambda: LlamaModel.from_config(LlamaConfig(**SIZES))),
        "few layers": _message(lambda: few.build({})),
        "odd micro batches": _message(lambda: interleaved.train_batch(micro_batches([1, 1, 1]))),
    }


def _message(function: Any) -> str:
    from paddlenlp.utils.errors import UsageError

    try:
        function()
    except UsageError as error:
        return str(error)
    return ""


def recomputed_layers() -> List[int]:
    """The layers of this rank that a step recomputes, of every third one of the model."""
    from paddlenlp.nn import staged

    model, found, real = Setting(pp=2, recompute={"enabled": True, "interval": 3}).build({}), [], staged.recomputed

    def noting(function: Any, *args: Any) -> Any:
        found.append(function.func.index)
        return real(function, *args)

    staged.recomputed = noting
    try:
        model.train_batch(micro_batches([1]))
    finally:
        staged.recomputed = real
    return found


def draws(payload: Dict[str, Any]) -> Dict[str, Any]:
    """Texts drawn without a seed, and the lines that the sample callback logs, on this rank."""
    import types

    import paddle

    from paddlenlp.trainer import sample_text
    from paddlenlp.utils.log import logger

    model = Setting(pp=2).build({})
    ids = model.generate(paddle.to_tensor([[1, 2, 3]]), max_new_tokens=8, do_sample=True)
    tokenizer = types.SimpleNamespace(
        encode_ids=lambda text: [1, 2, 3], decode=lambda ids, **_: " ".join(map(str, ids)), eos_token_id=None
    )
    args = types.SimpleNamespace(sample_prompt="p", sample_max_new_tokens=4, seed=1, process_index=RANK)
    lines: List[str] = []
    logger.handlers[0].emit = lambda record: lines.append(record.getMessage())
    sample_text.SampleTextCallback()._show("before", args, model, tokenizer)
    return {"ids": ids.tolist(), "lines": lines}


def two(payload: Dict[str, Any]) -> Dict[str, Any]:
    """All that two ranks are asked for."""
    return {
        "compare": compare(payload),
        "refusals": refusals(payload),
        "draws": draws(payload),
        "recomputed": recomputed_layers(),
    }


def four(payload: Dict[str, Any]) -> Dict[str, Any]:
    """All that four ranks are asked for."""
    return {"compare": compare(payload), "partial": partial_exchange(payload["partial"])}
