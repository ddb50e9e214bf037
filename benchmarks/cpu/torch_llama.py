"""A peer: a bare PyTorch loop with scaled_dot_product_attention, nn.RMSNorm and fused AdamW; --compile compiles it.

It runs in an environment of its own.
"""

from __future__ import annotations

import common

ARGS = common.parse_arguments("compile")

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402

torch.set_num_threads(ARGS.threads)
SIZE = common.SHAPES[ARGS.shape]


class Attention(nn.Module):
    """Causal, with rotary positions."""

    def __init__(self) -> None:
        super().__init__()
        hidden, self.dim = SIZE["hidden"], SIZE["hidden"] // SIZE["heads"]
        self.q_proj = nn.Linear(hidden, hidden, bias=False)
        self.k_proj = nn.Linear(hidden, self.dim * SIZE["kv_heads"], bias=False)
        self.v_proj = nn.Linear(hidden, self.dim * SIZE["kv_heads"], bias=False)
        self.o_proj = nn.Linear(hidden, hidden, bias=False)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        b, s, _ = x.shape
        q, k, v = (p(x).view(b, s, -1, self.dim).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj))
        grouped = SIZE["heads"] != SIZE["kv_heads"]
        y = F.scaled_dot_product_attention(turn(q, cos, sin), turn(k, cos, sin), v, is_causal=True, enable_gqa=grouped)
        return self.o_proj(y.transpose(1, 2).reshape(b, s, -1))


def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class MLP(nn.Module):
    """SwiGLU."""

    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(SIZE["hidden"], SIZE["inner"], bias=False)
        self.up_proj = nn.Linear(SIZE["hidden"], SIZE["inner"], bias=False)
        self.down_proj = nn.Linear(SIZE["inner"], SIZE["hidden"], bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Pre-norm decoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(), MLP()
        self.input_layernorm = nn.RMSNorm(SIZE["hidden"], common.EPS)
        self.post_attention_layernorm = nn.RMSNorm(SIZE["hidden"], common.EPS)

    def forward(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    """Embedding, layers, norm."""

    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(SIZE["vocab"], SIZE["hidden"])
        self.layers = nn.ModuleList(Layer() for _ in range(SIZE["layers"]))
        self.norm = nn.RMSNorm(SIZE["hidden"], common.EPS)
        dim = SIZE["hidden"] // SIZE["heads"]
        angles = torch.outer(
            torch.arange(SIZE["seq"]).float(), common.THETA ** -(torch.arange(0, dim, 2).float() / dim)
        )
        self.register_buffer("cos", torch.cat((angles, angles), -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat((angles, angles), -1).sin(), persistent=False)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, self.cos, self.sin)
        return self.norm(x)


class Llama(nn.Module):
    """The mean loss of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Body()
        self.lm_head = nn.Linear(SIZE["hidden"], SIZE["vocab"], bias=False)

    def forward(self, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(self.lm_head(self.model(ids)).flatten(0, 1), labels.flatten())


def main() -> None:
    """Train and print the result."""
    model = Llama()
    arrays = common.read_safetensors(ARGS.work / ARGS.shape / "model.safetensors")
    model.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in arrays.items()})
    groups = [
        {"params": [p for p in model.parameters() if p.ndim > 1], "weight_decay": common.WEIGHT_DECAY},
        {"params": [p for p in model.parameters() if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1.0, betas=common.BETAS, eps=common.ADAM_EPS, fused=True)
    run = torch.compile(model) if ARGS.compile else model
    data = common.batches(ARGS.work, ARGS.shape, ARGS.steps)

    def step(number: int) -> float:
        total = 0.0
        for ids, labels in data[number]:
            loss = run(torch.from_numpy(ids), torch.from_numpy(labels)) / len(data[number])
            loss.backward()
            total += loss.item()
        nn.utils.clip_grad_norm_(model.parameters(), common.CLIP)
        for group in optimizer.param_groups:
            group["lr"] = common.learning_rate(number)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return total

    common.measure(f"torch {torch.__version__}{' compiled' if ARGS.compile else ''}", ARGS, step)


if __name__ == "__main__":
    main()
