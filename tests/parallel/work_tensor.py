"""One rank of a launch that compares tensor and sequence parallelism with one process."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List

import numpy as np

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=32,
    initializer_range=0.2,
)
ROWS, LENGTH = 2, 8


def model_of(changes: Dict[str, Any], dtype: str = "float32") -> Any:
    from paddlenlp.transformers.llama.configuration import LlamaConfig
    from paddlenlp.transformers.llama.modeling import LlamaForCausalLM

    model = LlamaForCausalLM.from_config(LlamaConfig(**{**SIZES, **changes}), dtype=dtype)
    model.train()
    return model


def batch_of(seed: int = 0) -> Dict[str, Any]:
    import paddle

    random = np.random.default_rng(seed)
    ids = random.integers(0, SIZES["vocab_size"], (ROWS, LENGTH + 1))
    labels = np.where(random.random((ROWS, LENGTH)) < 0.3, -100, ids[:, 1:])
    return {"input_ids": paddle.to_tensor(ids[:, :-1]), "labels": paddle.to_tensor(labels)}


def alone() -> None:
    """What follows runs as in one process, on every rank."""
    from paddlenlp.parallel.mesh import Mesh
    from paddlenlp.parallel.topology import set_topology

    set_topology(Mesh())


def together(sequence_parallel: bool = False, parallel_output: bool = True) -> Any:
    """All ranks are tensor-parallel ranks."""
    from paddlenlp.parallel.mesh import Mesh
    from paddlenlp.parallel.topology import set_topology

    rank, world = int(os.environ["PADDLE_TRAINER_ID"]), int(os.environ["PADDLE_TRAINERS_NUM"])
    return set_topology(Mesh(tp=world), rank, sequence_parallel, parallel_output).tp


def shares_of(x: Any) -> List[np.ndarray]:
    """The tensors of all tensor-parallel ranks."""
    from paddlenlp.parallel import topology

    tp = topology().tp
    flat = tp.group.all_gather(x.detach().astype("float32").reshape([-1]).clone()).wait().numpy()
    return list(flat.reshape([tp.size, *x.shape]))


def whole_gradient(param: Any) -> np.ndarray:
    """The gradient of the whole parameter, from what the ranks have."""
    from paddlenlp.parallel import topology

    mesh = topology()
    shares = shares_of(param.grad)
    if param.partial_grad == "always" or (param.partial_grad == "sequence" and mesh.sequence_parallel):
        return np.sum(shares, 0)
    return param.tp_layout.join(shares)


def squares(model: Any) -> float:
    """The sum of the squares of all gradients, each element counted once; under plain tensor parallelism."""
    from paddlenlp.parallel import topology

    total = sum(float((p.grad.astype("float64") ** 2 / p.copies).sum()) for p in model.parameters())
    import paddle

    return float(topology().tp.group.all_reduce(paddle.to_tensor(total, "float64")).wait())


def step(model: Any, batch: Dict[str, Any]) -> float:
    loss = model(**batch)
    loss.backward()
    return float(loss)


def gap(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def compare(case: Dict[str, Any]) -> Dict[str, Any]:
    """The differences of one case: {"model", "sp", "recompute": granularity and mode, "dtype"} from one process."""
    from paddlenlp.nn.precision import Precision, set_precision
    from paddlenlp.nn.recompute import RecomputePolicy, set_recompute

    dtype, batch = case.get("dtype", "float32"), batch_of()
    set_recompute(RecomputePolicy())
    set_precision(Precision(dtype, dtype, "float32", emulated=dtype != "float32"))
    alone()
    reference = model_of(case["model"], dtype)
    expected = step(reference, batch)
    together(case["sp"])
    granularity, reentrant = case.get("recompute", (None, False))
    set_recompute(RecomputePolicy(granularity is not None, granularity or "full", use_reentrant=reentrant))
    model = model_of(case["model"], dtype)
    found = step(model, batch)
    theirs = dict(reference.named_parameters())
    result = {
        "loss": abs(found - expected) / expected,
        "names": list(theirs) == [name for name, _ in model.named_parameters()],
        "weights": max(
            float(np.abs(p.tp_layout.join(shares_of(p)) - theirs[n].astype("float32").numpy()).max())
            for n, p in model.named_parameters()
        ),
        "gradients": {
            n: gap(whole_gradient(p), theirs[n].grad.astype("float32").numpy()) for n, p in model.named_parameters()
        },
    }
    if not case["sp"]:
        whole = sum(float((p.grad.astype("float64") ** 2).sum()) for p in theirs.values())
        result["squares"] = abs(squares(model) - whole) / whole
    set_recompute(RecomputePolicy())
    set_precision(Precision())
    return result


@contextmanager
def counted() -> Iterator[Dict[str, int]]:
    """Operation -> calls on the tensor-parallel group, filled in at the end."""
    from paddlenlp.parallel.group import traffic

    found: Dict[str, int] = {}
    traffic.clear()
    yield found
    for (group, operation), calls in traffic.calls.items():
        if group == "tp":
            found[operation] = found.get(operation, 0) + calls
            found[f"{operation} bytes"] = found.get(f"{operation} bytes", 0) + traffic.bytes[group, operation]


def traffic_of(case: Dict[str, Any]) -> Dict[str, Dict[str, int]]:
    """What one micro batch sends in each pass."""
    from paddlenlp.nn.recompute import RecomputePolicy, set_recompute

    together(case["sp"])
    granularity, reentrant = case.get("recompute", (None, False))
    set_recompute(RecomputePolicy(granularity is not None, granularity or "full", use_reentrant=reentrant))
    model = model_of(case["model"])
    with counted() as forward:
        loss = model(**batch_of())
    with counted() as backward:
        loss.backward()
    set_recompute(RecomputePolicy())
    return {"forward": forward, "backward": backward}


def logits() -> Dict[str, Any]:
    """Logits of a model as `forward` gives them with and without `parallel_output`, against one process."""
    import paddle

    found, batch = {}, batch_of()["input_ids"]
    weights = paddle.to_tensor(np.random.default_rng(1).random((ROWS, LENGTH, 64)), "float32")
    for tied in (False, True):
        changes = {"tie_word_embeddings": tied, "num_key_value_heads": 4}
        alone()
        reference = model_of(changes)
        expected = reference(batch)
        (expected * weights).sum().backward()
        for sp in (False, True):
            tp = together(sp, parallel_output=True)
            share = model_of(changes)(batch)
            width = share.shape[-1]
            name = f"tied {tied}, sp {sp}"
            own = expected[..., tp.rank * width : (tp.rank + 1) * width]
            found[f"{name}, cut"] = [64 // width, gap(share.numpy(), own.numpy())]
            together(sp, parallel_output=False)
            model = model_of(changes)
            whole = model(batch)
            (whole * weights).sum().backward()
            gaps = [gap(whole_gradient(p), q.grad.numpy()) for p, q in zip(model.parameters(), reference.parameters())]
            found[f"{name}, whole"] = [1, max(gap(whole.numpy(), expected.numpy()), *gaps)]
    return found


def losses() -> Dict[str, float]:
    """The two forms of the cut cross entropy against float64, with labels of all kinds."""
    import paddle

    from paddlenlp.nn import kernels, plain
    from paddlenlp.nn.cpu import loss as cpu

    tp, found = together(), {}
    random = np.random.default_rng(3)
    x, w = random.normal(size=(11, 8)), random.normal(size=(8, 24))
    w[:, 5] *= 40  # some rows have probabilities below exp(-64), some near 1
    labels = random.integers(0, 24, 11)
    labels[[2, 7]] = -100
    scores = x @ w
    scores -= scores.max(-1, keepdims=True)
    each = np.log(np.exp(scores).sum(-1)) - scores[np.arange(11), labels.clip(0)]
    each *= labels != -100
    p = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True) - np.eye(24)[labels.clip(0)]
    p *= (labels != -100)[:, None]
    mine, ids = slice(24 // tp.size * tp.rank, 24 // tp.size * (tp.rank + 1)), paddle.to_tensor(labels)
    for name, function in (("plain", plain.head_loss), ("cpu", cpu.head_loss)):
        for transpose in (False, True):
            plain.HEAD_ROWS = cpu.ROWS = 4
            rows, part = paddle.to_tensor(x, "float32"), paddle.to_tensor(w[:, mine], "float32")
            part = part.t().contiguous() if transpose else part
            rows.stop_gradient = part.stop_gradient = False
            total = function(rows, part, ids, transpose, tp.group)
            total.backward()
            grad = part.grad.t() if transpose else part.grad
            found[f"{name} {transpose} loss"] = abs(float(total) - each.sum()) / each.sum()
            found[f"{name} {transpose} x"] = gap(np.sum(shares_of(rows.grad), 0), p @ w.T)
            found[f"{name} {transpose} weight"] = gap(grad.numpy(), (x.T @ p)[:, mine])
    values = kernels.cross_entropy(paddle.to_tensor((x @ w)[:, mine], "float32"), ids, tp.group)
    found["each"] = gap(values.numpy(), each)
    empty = kernels.head_loss(rows, part, paddle.full_like(ids, -100), True, tp.group)
    found["none kept"] = float(empty)
    return found


def head_norm() -> float:
    """A norm over the features of single heads: its gradient is always a part of the sum."""
    import paddle

    from paddlenlp.nn import RMSNorm
    from paddlenlp.parallel.layers import Linear

    x, gaps = paddle.to_tensor(np.random.default_rng(5).normal(size=(8, 16)), "float32"), []
    for sp in (False, True):
        made = []
        for start in (alone, lambda sp=sp: together(sp)):
            start()
            up, norm = Linear(16, 16, split="column"), RMSNorm(4, partial_grad="always")
            down = Linear(16, 16, split="row")
            fill([up.weight, down.weight])
            y = norm(up(own_rows(x)).reshape([8, -1, 4])).reshape([8, -1])
            (down(y) ** 2).sum().backward()
            made.append(whole_gradient(norm.weight))
        gaps.append(gap(made[1], made[0]))
    return max(gaps)


def frozen(sp: bool) -> float:
    """The gradients of some parameters where the others are not trained."""
    names = ("llama.layers.0.self_attn.v_proj.weight", "llama.layers.1.mlp.down_proj.bias")
    made = []
    for start in (alone, lambda: together(sp)):
        start()
        model = model_of({"num_key_value_heads": 1, "mlp_bias": True, "attention_bias": True})
        for name, param in model.named_parameters():
            param.stop_gradient = name not in names
        step(model, batch_of())
        made.append([whole_gradient(param) for name, param in model.named_parameters() if name in names])
    return max(gap(found, expected) for expected, found in zip(*made))


def fill(params: List[Any]) -> None:
    from paddlenlp.parallel.random import fill as fill_one

    for index, param in enumerate(params):
        fill_one(param, np.random.default_rng(index).normal(size=param.whole_shape).astype(np.float32))


def own_rows(x: Any) -> Any:
    from paddlenlp.parallel import topology

    mesh = topology()
    return x.chunk(mesh.tp.size, 0)[mesh.tp.rank] if mesh.sequence_parallel else x


def row_of_whole_input() -> float:
    """A row-cut product of an input that every rank has whole: the gradient of the input must be whole too.

    Fleet's RowParallelLinear(input_is_parallel=False) gets it wrong.
    """
    import paddle

    from paddlenlp.parallel import comm, topology
    from paddlenlp.parallel.layers import Linear

    made = []
    for start in (alone, together):
        start()
        down, tp = Linear(16, 8, bias=True, split="row"), topology().tp
        fill([down.weight, down.bias])
        x = paddle.to_tensor(np.random.default_rng(6).normal(size=(6, 16)), "float32")
        x.stop_gradient = False
        (down(comm.enter(x).chunk(tp.size, 1)[tp.rank]) ** 2).sum().backward()
        made.append([x.grad.numpy(), whole_gradient(down.weight), whole_gradient(down.bias)])
    return max(gap(found, expected) for expected, found in zip(*made))


def drawn(x: Any) -> List[int]:
    """A number for what each rank has dropped."""
    powers = 2.0 ** np.arange(x.size)
    return [int((share.reshape(-1) != 0) @ powers % 1e9) for share in shares_of(x)]


def dropout_streams() -> Dict[str, Any]:
    """What the ranks draw, and whether it can be drawn again."""
    import paddle

    from paddlenlp.nn import kernels
    from paddlenlp.parallel import dropout

    tp, x, found = together(), paddle.ones([48]), {}
    dropout.seed_streams(7, 100 + tp.rank)
    found["same"] = drawn(dropout.dropout(x, 0.5))
    found["own"] = drawn(dropout.dropout(x, 0.5, cut=True))
    found["same again"] = drawn(dropout.dropout(x, 0.5))
    states = dropout.stream_states()
    first = dropout.dropout(x, 0.5, cut=True)
    dropout.set_stream_states(states)
    found["restored"] = bool((first == dropout.dropout(x, 0.5, cut=True)).all())
    found["another"] = bool((first == dropout.dropout(x, 0.5, cut=True)).all())
    heads = paddle.ones([1, 4, 2, 4])
    found["attention"] = drawn(kernels.attention(heads, heads, heads, dropout=0.5))
    together(sequence_parallel=True)
    found["rows"] = drawn(dropout.dropout(x, 0.5))
    found["evaluation"] = drawn(dropout.dropout(x, 0.5, training=False))
    return found


def dropout_recomputed() -> Dict[str, bool]:
    """Whether recomputation drops what the forward pass dropped, and all ranks get the same loss."""
    import paddle

    from paddlenlp.nn.recompute import RecomputePolicy, set_recompute
    from paddlenlp.parallel import dropout

    found = {}
    policies = [RecomputePolicy(True, g, use_reentrant=m) for g in ("full", "full_attn", "core_attn") for m in (0, 1)]
    for sp in (False, True):
        tp, results = together(sp), []
        for policy in (RecomputePolicy(), *policies):
            set_recompute(policy)
            dropout.seed_streams(7, 100 + tp.rank)
            model = model_of({"num_key_value_heads": 2, "attention_dropout": 0.3})
            loss = step(model, batch_of())
            results.append([np.array(loss), *[p.grad.numpy() for p in model.parameters()]])
        set_recompute(RecomputePolicy())
        same = [np.array_equal(a, b) for result in results for a, b in zip(result, results[0])]
        losses = [float(a) for a in shares_of(paddle.to_tensor(results[0][0], "float32"))]
        found[f"sp {sp}"] = all(same) and len(set(losses)) == 1
    return found


def refusals() -> Dict[str, str]:
    """Messages of what cannot be cut."""
    import paddle

    from paddlenlp.parallel import dropout
    from paddlenlp.utils.errors import UsageError

    found = {}

    def note(name: str, action: Any) -> None:
        try:
            action()
            found[name] = "no error"
        except UsageError as error:
            found[name] = str(error)

    together()
    note("heads", lambda: model_of({"num_attention_heads": 1, "num_key_value_heads": 1}))
    note("vocabulary", lambda: model_of({"vocab_size": 63}))
    dropout._tracker().reset()
    note("streams", lambda: dropout.dropout(paddle.ones([2]), 0.5, cut=True))
    together(sequence_parallel=True)
    model = model_of({})
    note("rows", lambda: model(paddle.ones([1, 5], "int64")))
    return found


def main(payload: Dict[str, Any]) -> Dict[str, Any]:
    """All checks of one launch."""
    return {
        "cases": {name: compare(case) for name, case in payload["cases"].items()},
        "traffic": {name: traffic_of(case) for name, case in payload["traffic"].items()},
        "logits": logits(),
        "losses": losses(),
        "head norm": head_norm(),
        "frozen": [frozen(sp) for sp in (False, True)],
        "row of whole input": row_of_whole_input(),
        "dropout": dropout_streams(),
        "dropout recomputed": dropout_recomputed(),
        "refusals": refusals(),
    }
