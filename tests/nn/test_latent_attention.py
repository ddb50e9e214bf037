"""Latent attention against one head and one query at a time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddlenlp.nn import LatentAttention, RecomputePolicy, Rotary, set_recompute
from paddlenlp.nn.batch import Batch
from paddlenlp.nn.cache import LayerCache
from paddlenlp.parallel.topology import Axis, Topology
from paddlenlp.utils.errors import UsageError

ROWS, TOKENS, HEADS, PLAIN, TURNED, VALUE, RANK = 2, 7, 3, 6, 4, 5, 8
SIZES = dict(
    hidden_size=12,
    num_attention_heads=HEADS,
    num_hidden_layers=1,
    kv_lora_rank=RANK,
    qk_nope_head_dim=PLAIN,
    qk_rope_head_dim=TURNED,
    v_head_dim=VALUE,
)
BATCH = Batch(ROWS, TOKENS, 0, TOKENS)


def made(q_rank=None, **options):
    layer = LatentAttention(SimpleNamespace(q_lora_rank=q_rank, **SIZES), Rotary(TURNED, interleaved=True), **options)
    paddle.seed(0)
    for param in layer.parameters():
        param.set_value(paddle.randn(param.shape) * 0.5)
    return layer


def hidden():
    paddle.seed(1)
    return paddle.randn([ROWS * TOKENS, 12])


def turned(pairs, place):
    """Pairs of features (2i, 2i + 1) as complex numbers, turned by their angles at `place`."""
    angles = place / 10000.0 ** (np.arange(0, TURNED, 2) / TURNED)
    return ((pairs[::2] + 1j * pairs[1::2]) * np.exp(1j * angles)).view(np.float64)


def norm(x, weight):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-6) * weight


def expected(layer, x, scale):
    """In float64, from the weights alone."""
    p = {name: param.numpy().astype(np.float64) for name, param in layer.named_parameters()}

    def times(x, name):
        return x @ p[f"{name}.weight"] + p.get(f"{name}.bias", 0.0)

    x = x.numpy().astype(np.float64)
    q = x if layer.q_rank is None else norm(times(x, "q_a_proj"), p["q_a_layernorm.weight"])
    q = times(q, "q_proj" if layer.q_rank is None else "q_b_proj").reshape(-1, HEADS, PLAIN + TURNED)
    narrow = times(x, "kv_a_proj_with_mqa")
    kv = times(norm(narrow[:, :RANK], p["kv_a_layernorm.weight"]), "kv_b_proj").reshape(-1, HEADS, PLAIN + VALUE)
    y = np.zeros((ROWS * TOKENS, HEADS, VALUE))
    for row in range(ROWS):
        for head in range(HEADS):
            for i in range(TOKENS):
                mine = q[row * TOKENS + i, head]
                scores = []
                for j in range(i + 1):
                    key = row * TOKENS + j
                    scores.append(
                        mine[:PLAIN] @ kv[key, head, :PLAIN] + turned(mine[PLAIN:], i) @ turned(narrow[key, RANK:], j)
                    )
                weights = np.exp(np.array(scores) * scale)
                keys = slice(row * TOKENS, row * TOKENS + i + 1)
                y[row * TOKENS + i, head] = weights @ kv[keys, head, PLAIN:] / weights.sum()
    return times(y.reshape(ROWS * TOKENS, -1), "o_proj")


@pytest.mark.parametrize("q_rank", [None, 9])
@pytest.mark.parametrize("options", [{}, {"bias": True, "scale": 0.2}])
def test_equals_one_query_at_a_time(q_rank, options):
    layer, x = made(q_rank, **options), hidden()
    scale = options.get("scale", (PLAIN + TURNED) ** -0.5)
    np.testing.assert_allclose(layer(x, BATCH).numpy(), expected(layer, x, scale), rtol=1e-4, atol=1e-4)
    with_bias = [name[: -len(".bias")] for name, _ in layer.named_parameters() if name.endswith("bias")]
    queries = [] if q_rank is None else ["q_a_proj"]
    assert with_bias == ([*queries, "kv_a_proj_with_mqa", "o_proj"] if options else [])


@pytest.mark.parametrize("q_rank", [None, 9])
def test_every_parameter_has_its_gradient(q_rank):
    layer, x = made(q_rank, bias=True), hidden()
    slopes = np.random.default_rng(0).standard_normal((ROWS * TOKENS, 12))
    (layer(x, BATCH) * paddle.to_tensor(slopes.astype(np.float32))).sum().backward()
    for name, param in layer.named_parameters():
        at = tuple(0 for _ in param.shape)
        sums, step, value = [], 1e-2, param.numpy().copy()
        for sign in (1, -1):
            moved = value.copy()
            moved[at] += sign * step
            param.set_value(moved)
            sums.append((expected(layer, x, (PLAIN + TURNED) ** -0.5) * slopes).sum())
        param.set_value(value)
        assert float(param.grad.numpy()[at]) == pytest.approx((sums[0] - sums[1]) / (2 * step), rel=2e-3, abs=2e-3), (
            name
        )


@pytest.mark.parametrize("granularity", ["full_attn", "core_attn"])
def test_recomputing_changes_nothing(granularity):
    layer, x = made(9), hidden()
    set_recompute(RecomputePolicy(True, granularity))
    found = {}
    for recompute in (None, granularity):
        x = x.detach()
        x.stop_gradient = False
        layer(x, BATCH._replace(recompute=recompute)).square().sum().backward()
        found[recompute] = [x.grad.numpy(), *(param.grad.numpy() for param in layer.parameters())]
        for param in layer.parameters():
            param.clear_gradient(False)
    for a, b in zip(found[None], found[granularity]):
        np.testing.assert_array_equal(a, b)


def test_token_by_token():
    layer, x, cache = made(9), hidden(), LayerCache()
    layer.eval()
    whole = layer(x, BATCH).reshape([ROWS, TOKENS, -1])
    for i in range(TOKENS):
        step = layer(x.reshape([ROWS, TOKENS, -1])[:, i], Batch(ROWS, 1, i, i + 1, cache=cache))
        np.testing.assert_allclose(step.numpy(), whole[:, i].numpy(), rtol=1e-4, atol=1e-5)


def test_heads_that_the_ranks_cannot_share(monkeypatch):
    monkeypatch.setattr("paddlenlp.nn.latent_attention.topology", lambda: Topology(tp=Axis(2, 0)))
    with pytest.raises(UsageError, match="num_attention_heads=3 .* tensor_parallel_degree"):
        made()
