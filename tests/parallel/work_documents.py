"""One rank of a launch that trains tiny models in many layouts on samples of several documents."""

from __future__ import annotations

from typing import Any, Dict, List

from layouts import LAYOUTS
from work_layouts import Run, batches

SIZES = dict(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    initializer_range=0.3,
)
MODELS: Dict[str, Any] = {
    "grouped heads": ("Llama", dict(SIZES, num_key_value_heads=2)),
    "linear biases": ("Bloom", dict(vocab_size=64, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3)),
    "window": ("Mistral", dict(SIZES, num_key_value_heads=2, sliding_window=3)),
    "local filter": ("Yuan", SIZES),
    "latent attention, predicts ahead": (
        "DeepseekV3",
        dict(
            SIZES,
            q_lora_rank=None,
            kv_lora_rank=16,
            qk_nope_head_dim=8,
            qk_rope_head_dim=4,
            v_head_dim=8,
            n_routed_experts=None,
            num_nextn_predict_lambda=0.5,
        ),
    ),
}
STEPS, END = 3, 5
PLACES = ((2, 3, 9), (7,), (0, 12, 14), ())
"""Where documents end in the rows of each step: within and at the edges of what ranks hold, and nowhere."""


def micro_batches(step: int, args: Any, bounds: bool) -> List[Dict[str, Any]]:
    """What this rank reads of a step: rows of several documents, whose bounds are told, or kept to ourselves."""
    import paddle

    from paddlenlp.data import DocumentBounds

    whole = batches(step)
    for row, places in enumerate(PLACES):
        whole["input_ids"][row][whole["input_ids"][row] == END] = END + 1
        whole["input_ids"][row, list(places)] = END
    if bounds:
        whole.update(DocumentBounds(END, positions=True, attention=True).describe(whole["input_ids"]))
    rounds = len(PLACES) // args.dataset_world_size
    starts = [turn * args.dataset_world_size + args.dataset_rank for turn in range(rounds)]
    return [{name: paddle.to_tensor(x[start : start + 1]) for name, x in whole.items()} for start in starts]


def train(layout: Dict[str, Any], model: str, bounds: bool = True) -> Dict[str, List[float]]:
    """Losses and gradient norms of a few steps, and the loss of an evaluation behind them."""
    run = Run(layout, *MODELS[model])
    results = [run.step.run(step, micro_batches(step, run.args, bounds)) for step in range(1, STEPS + 1)]
    run.model.eval()
    found = [run.model.eval_batch(batch) for batch in micro_batches(STEPS + 1, run.args, bounds)]
    return {
        "losses": [result.loss for result in results],
        "norms": [result.grad_norm for result in results],
        "evaluation": [sum(float(loss) for loss, _ in found) / sum(float(kept) for _, kept in found)],
    }


def many_layouts(payload: List[List[str]]) -> Dict[str, Any]:
    """Every case, a layout and a model, in turn."""
    return {f"{layout} | {model}": train(LAYOUTS[layout].arguments, model) for layout, model in payload}
