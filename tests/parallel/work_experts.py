"""One rank of a launch that computes gradients of tiny models in several layouts and alone."""

from __future__ import annotations

import os
from typing import Any, Callable, Dict, List, Tuple

import numpy as np

VOCAB, SAMPLES, LENGTH, HIDDEN = 48, 4, 8, 16
SIZES = dict(vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=2, num_attention_heads=4, initializer_range=0.2)
LATENT = dict(
    SIZES,
    intermediate_size=24,
    kv_lora_rank=8,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=6,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_shared_experts=2,
    moe_intermediate_size=8,
    first_k_dense_replace=1,
    aux_loss_alpha=0.5,
)
GROUPED = dict(topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=2.0)
MODELS: Dict[str, Tuple[str, Dict[str, Any]]] = {
    "mixtral": ("Mixtral", dict(SIZES, intermediate_size=24, num_key_value_heads=2, num_local_experts=4)),
    "mixtral balanced": (
        "Mixtral",
        dict(
            SIZES,
            intermediate_size=24,
            num_key_value_heads=2,
            num_local_experts=8,
            output_router_logits=True,
            router_aux_loss_coef=2.0,
        ),
    ),
    "deepseek": ("DeepseekV2", dict(LATENT, q_lora_rank=None)),
    "deepseek groups": ("DeepseekV2", dict(LATENT, q_lora_rank=10, attention_bias=True, n_routed_experts=8, **GROUPED)),
    "bloom": ("Bloom", dict(SIZES, layer_norm_epsilon=1e-5)),
}


def rank() -> int:
    return int(os.environ["PADDLE_TRAINER_ID"])


def tokens() -> Dict[str, np.ndarray]:
    """A global batch; its sequences have different numbers of labels that count."""
    random = np.random.default_rng(0)
    ids = random.integers(0, VOCAB, (SAMPLES, LENGTH + 1))
    labels = np.where(np.arange(LENGTH) < np.arange(SAMPLES)[:, None], -100, ids[:, 1:])
    return {"input_ids": ids[:, :-1].copy(), "labels": labels}


def of_model(name: str, micro_batches: int) -> Tuple[float, Dict[str, np.ndarray]]:
    """Loss of the global batch and whole gradients of a model in the layout that is set."""
    import paddle

    import paddlenlp.transformers as families
    from paddlenlp.nn.moe_balance import set_balance_factor
    from paddlenlp.nn.program import read
    from paddlenlp.parallel import topology

    prefix, config = MODELS[name]
    model = getattr(families, f"{prefix}ForCausalLM").from_config(getattr(families, f"{prefix}Config")(**config))
    model.train()
    batch, mesh, loss = tokens(), topology(), 0.0
    kept = int((batch["labels"] != -100).sum())
    step = SAMPLES // mesh.data.size // micro_batches
    set_balance_factor(1.0 / SAMPLES)
    for start in range(mesh.data.rank * step * micro_batches, (mesh.data.rank + 1) * step * micro_batches, step):
        micro = {key: paddle.to_tensor(x[start : start + step]) for key, x in batch.items()}
        ids, labels, shape = read(model, micro)
        part = model.run(ids, shape, labels=labels) / kept
        part.backward()
        loss += float(part)
    set_balance_factor(None)
    total = mesh.world.group.all_reduce(paddle.to_tensor([loss / mesh.tp.size], "float64")).wait()
    return float(total), whole_gradients(model)


def of_layer(gated: bool, biased: bool) -> Tuple[float, Dict[str, np.ndarray]]:
    """A MoE by itself, with a shared expert. `biased`: every token chooses the same expert, so some ranks get none."""
    from types import SimpleNamespace

    import paddle

    from paddlenlp.nn import MoE, Router
    from paddlenlp.nn.batch import Batch
    from paddlenlp.parallel import topology
    from paddlenlp.parallel.random import initialise

    config = SimpleNamespace(hidden_size=HIDDEN, num_hidden_layers=2)
    layer = MoE(config, Router(HIDDEN, 4, 1 if biased else 2), 8, "silu", shared_width=12, shared_gated=gated)
    initialise(layer, 0.3)
    if biased:
        layer.gate.weight.set_value(paddle.zeros_like(layer.gate.weight))
    mesh, random = topology(), np.random.default_rng(1)
    rows = SAMPLES * LENGTH // mesh.data.size
    x, slopes = random.standard_normal((2, SAMPLES * LENGTH, HIDDEN)).astype(np.float32)
    if mesh.sequence_parallel:
        rows //= mesh.tp.size
    place = mesh.data.rank * mesh.tp.size + mesh.tp.rank if mesh.sequence_parallel else mesh.data.rank
    own = slice(place * rows, (place + 1) * rows)
    own_x = paddle.to_tensor(x[own], stop_gradient=False)
    loss = (layer(own_x, Batch(SAMPLES // mesh.data.size, LENGTH, 0, LENGTH)) * paddle.to_tensor(slopes[own])).sum()
    loss.backward()
    copies = 1 if mesh.sequence_parallel else mesh.tp.size
    total = mesh.world.group.all_reduce(loss.detach().astype("float64").reshape([1]) / copies).wait()
    return float(total), whole_gradients(layer)


def whole_gradients(model: Any) -> Dict[str, np.ndarray]:
    """Of the parameters of this rank: summed over the ranks that hold the same, their shares joined."""
    from paddlenlp.parallel import topology

    mesh, found = topology(), {}
    for name, param in model.named_parameters():
        grad = param.grad.clone()
        sharded, copied = (mesh.expert_sharding, mesh.expert_replica) if param.expert else (mesh.sharding, mesh.replica)
        for axis in (sharded, copied):
            grad = axis.group.all_reduce(grad).wait()
        if param.partial_grad == "always" or (param.partial_grad == "sequence" and mesh.sequence_parallel):
            grad = mesh.tp.group.all_reduce(grad).wait()
        shares = mesh.tp.group.all_gather(grad.reshape([1, -1])).wait().numpy()
        found[name] = param.tp_layout.join([share.reshape(grad.shape) for share in shares])
    return found


def compare(payload: Dict[str, Any]) -> List[Dict[str, Any]]:
    """For each case: relative difference of the loss, and the greatest distance of a gradient from that of one process
    as a share of the norm of all."""
    from paddlenlp.nn.recompute import RecomputePolicy, set_recompute
    from paddlenlp.parallel.group import traffic
    from paddlenlp.parallel.mesh import Mesh
    from paddlenlp.parallel.topology import set_topology, topology

    results, alone = [], {}
    for case in payload:
        compute: Callable[[], Any] = (
            (lambda case=case: of_layer(**case["layer"]))
            if "layer" in case
            else (lambda case=case: of_model(case["model"], case.get("micro_batches", 1)))
        )
        key = str(case.get("layer") or case["model"])
        if key not in alone:
            set_topology(Mesh())
            alone[key] = of_layer(**case["layer"]) if "layer" in case else of_model(case["model"], 1)
        set_topology(Mesh(**case["mesh"]), rank(), case.get("sp", False))
        set_recompute(RecomputePolicy(enabled=case.get("recompute", False)))
        traffic.clear()
        loss, gradients = compute()
        set_recompute(RecomputePolicy())
        expected_loss, expected = alone[key]
        norm = float(np.sqrt(sum((x.astype(np.float64) ** 2).sum() for x in expected.values())))
        gaps = {name: float(np.linalg.norm(x - expected[name])) / norm for name, x in gradients.items()}
        worst = max(gaps, key=gaps.__getitem__)
        experts = sum(".experts." in name or name.startswith("experts.") for name in gradients)
        calls = {name: count for (group, name), count in traffic.calls.items() if group == "ep"}
        sent = sum(count for (group, _), count in traffic.bytes.items() if group == "ep")
        results.append(
            {
                "loss": abs(loss / expected_loss - 1),
                "gradient": gaps[worst],
                "worst": worst,
                "held": len(gradients) / len(expected),
                "experts": experts,
                "calls": calls.get("all_to_all", 0),
                "bytes": sent,
                "ep": topology().ep.size,
            }
        )
    set_topology(Mesh())
    return results
