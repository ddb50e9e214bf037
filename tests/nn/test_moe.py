"""Mixture of experts against the dense computation, in which every expert works on every token."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest
from paddle.nn import functional as F

from paddlenlp.nn import MoE, Router, set_capacity
from paddlenlp.nn.batch import Batch
from paddlenlp.nn.moe_balance import balanced, set_balance_factor
from paddlenlp.nn.moe_router import update_biases
from paddlenlp.parallel.random import initialise
from paddlenlp.transformers.mixtral.configuration import MixtralConfig
from paddlenlp.transformers.mixtral.modeling import MixtralForCausalLM
from paddlenlp.utils.errors import UsageError

HIDDEN, WIDTH, ROWS, TOKENS = 12, 10, 2, 9
CONFIG = SimpleNamespace(hidden_size=HIDDEN, num_hidden_layers=2)
BATCH = Batch(ROWS, TOKENS, 0, TOKENS)


@pytest.fixture(autouse=True)
def _defaults():
    yield
    set_capacity(None)
    set_balance_factor(None)


def made(experts=5, choices=2, router=None, **options):
    layer = MoE(CONFIG, Router(HIDDEN, experts, choices, **(router or {})), WIDTH, "silu", **options)
    initialise(layer, 0.5)
    return layer


def hidden(seed=0):
    values = np.random.default_rng(seed).standard_normal((ROWS * TOKENS, HIDDEN), dtype=np.float32)
    return paddle.to_tensor(values, stop_gradient=False)


def one(expert, x):
    gate, up, down = (layer.weight for layer in expert.sublayers())
    return paddle.matmul(F.silu(paddle.matmul(x, gate)) * paddle.matmul(x, up), down)


def dense(layer, x):
    """Every expert on every token, weighted with zeros where it was not chosen."""
    _, chosen, weights = layer.gate(x)
    shares = (F.one_hot(chosen, layer.gate.experts) * weights.unsqueeze(-1)).sum(1)
    y = sum(one(expert, x) * shares[:, i : i + 1] for i, expert in enumerate(layer.experts.children()))
    if not layer.shared_names:
        return y
    shared = one(getattr(layer, layer.shared_names[0]), x)
    gate = layer._sub_layers.get(layer.shared_names[1])
    return y + (shared if gate is None else shared * F.sigmoid(gate(x)))


def results(layer, x, compute):
    """The output, and gradients of x and of all parameters at random slopes."""
    for tensor in (x, *layer.parameters()):
        tensor.clear_gradient(False)
    y = compute(x)
    (y * paddle.to_tensor(np.random.default_rng(1).standard_normal(y.shape, dtype=np.float32))).sum().backward()
    grads = [tensor.grad for tensor in (x, *layer.parameters())]
    return [y.numpy(), *(None if grad is None else grad.numpy().copy() for grad in grads)]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"choices": 1, "router": {"renormalise": False, "scale": 2.5}},
        {"choices": 5, "router": {"renormalise": True}},
        {"router": {"renormalise": True}, "names": ("w1", "w3", "w2")},
        {"experts": 8, "choices": 3, "router": {"groups": 4, "best_groups": 2}},
        {"experts": 8, "choices": 3, "router": {"scoring": "sigmoid", "renormalise": True, "corrected": True}},
        {"shared_width": 7},
        {"shared_width": 7, "shared_name": "shared_expert", "shared_gated": True},
        {"experts": 40, "choices": 1},  # most experts get no token
    ],
)
def test_equals_the_dense_computation(options):
    layer, x = made(**options), hidden()
    found = results(layer, x, lambda x: layer(x, BATCH))
    expected = results(layer, x, lambda x: dense(layer, x))
    for a, b in zip(found, expected):
        if b is None:  # the correcting bias has no gradient
            assert a is None
            continue
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5 * (1 + np.abs(b).max()))


def test_twice_the_same_bits():
    layer, x = made(shared_width=7), hidden()
    first, second = (results(layer, x, lambda x: layer(x, BATCH)) for _ in range(2))
    for a, b in zip(first, second):
        np.testing.assert_array_equal(a, b)


def test_an_expert_without_tokens_has_gradients_of_zero():
    layer, x = made(experts=40, choices=1), hidden()
    results(layer, x, lambda x: layer(x, BATCH))
    chosen = set(layer.gate(x)[1].numpy().reshape(-1).tolist())
    assert len(chosen) < 40
    for index, expert in enumerate(layer.experts.children()):
        assert all(bool(param.grad.abs().sum() > 0) == (index in chosen) for param in expert.parameters())


def test_parameters_have_the_names_of_checkpoints():
    names = [name for name, _ in made(experts=2, shared_width=7, shared_gated=True).named_parameters()]
    matrices = ("gate_proj", "up_proj", "down_proj")
    experts = [f"experts.{index}.{name}.weight" for index in range(2) for name in matrices]
    shared = [f"shared_experts.{name}.weight" for name in matrices]
    assert names == ["gate.weight", *experts, *shared, "shared_experts_gate.weight"]


def test_weights_are_renormalised_and_scaled():
    x = hidden()
    plain, sums, scaled = (
        made(router=options).gate(x)[2].numpy() for options in ({}, {"renormalise": True}, {"scale": 3.0})
    )
    assert np.all(plain.sum(1) < 1)
    np.testing.assert_allclose(sums, plain / plain.sum(1, keepdims=True), rtol=1e-6)
    np.testing.assert_allclose(scaled, 3 * plain, rtol=1e-6)


def test_only_the_best_groups_are_chosen_from():
    router = made(8, 3, {"groups": 4, "best_groups": 2}).gate
    scores, chosen, weights = (y.numpy() for y in router(hidden()))
    best = np.argsort(-scores.reshape(-1, 4, 2).max(-1), 1)[:, :2]
    assert not np.array_equal(np.sort(chosen, 1), np.sort(np.argsort(-scores, 1)[:, :3], 1))
    for row in range(len(scores)):
        allowed = [expert for expert in range(8) if expert // 2 in best[row]]
        expected = sorted(allowed, key=lambda expert: -scores[row, expert])[:3]
        assert sorted(chosen[row]) == sorted(expected)
        np.testing.assert_allclose(weights[row], scores[row, chosen[row]])


def test_a_bias_corrects_the_choice_and_not_the_weights():
    layer = made(8, 3, {"scoring": "sigmoid", "groups": 2, "best_groups": 1, "corrected": True})
    bias = np.linspace(-0.5, 0.5, 8).astype(np.float32)
    layer.gate.e_score_correction_bias.set_value(bias)
    shares, chosen, weights = (y.numpy() for y in layer.gate(hidden()))
    scores = F.sigmoid(paddle.matmul(hidden(), layer.gate.weight)).numpy()
    np.testing.assert_allclose(shares, scores / scores.sum(1, keepdims=True), rtol=1e-6)
    for row, score in enumerate(scores):
        merit = score + bias
        group = max((0, 1), key=lambda group: np.sort(merit[4 * group : 4 * group + 4])[-2:].sum())
        expected = 4 * group + np.argsort(-merit[4 * group : 4 * group + 4])[:3]
        assert sorted(chosen[row]) == sorted(expected)
        np.testing.assert_allclose(weights[row], score[chosen[row]], rtol=1e-6)


def test_biases_follow_the_load_of_the_experts():
    layer = made(4, 1, {"scoring": "sigmoid", "corrected": True, "bias_step": 0.25})
    gate, bias = layer.gate, layer.gate.e_score_correction_bias
    bias.set_value(np.array([9, 0, 0, 0], np.float32))  # all choose the first

    def step(applied=True):
        for _ in range(2):
            gate(hidden())
        update_biases(layer, applied)
        return bias.numpy().tolist()

    assert step() == [8.75, 0.25, 0.25, 0.25]
    assert step(applied=False) == [8.75, 0.25, 0.25, 0.25]
    gate.eval()
    assert step() == [8.75, 0.25, 0.25, 0.25]  # no load: all as loaded as the mean


def test_the_bias_is_float32_whatever_the_rest_is():
    paddle.set_default_dtype("bfloat16")
    try:
        gate = Router(HIDDEN, 4, 2, corrected=True)
    finally:
        paddle.set_default_dtype("float32")
    assert (gate.weight.dtype, gate.e_score_correction_bias.dtype) == (paddle.bfloat16, paddle.float32)


@pytest.mark.parametrize(
    ("numbers", "options", "message"),
    [
        ((4, 5), {}, "cannot choose 5 of 4"),
        ((6, 2), {"groups": 4, "best_groups": 1}, "groups must divide"),
        ((8, 3), {"groups": 4, "best_groups": 1}, "cannot choose 3 of 2"),
        ((4, 1), {"groups": 4, "best_groups": 2, "corrected": True}, "have only one"),
        ((4, 1), {"scoring": "tanh"}, "known: softmax, sigmoid"),
    ],
)
def test_numbers_that_do_not_fit(numbers, options, message):
    with pytest.raises(UsageError, match=message):
        Router(HIDDEN, *numbers, **options)


def test_tokens_above_the_capacity_are_dropped_from_the_end():
    layer, x, most = made(), hidden(), 4
    chosen = layer.gate(x)[1].numpy()
    taken = np.zeros(5, int)
    kept = np.zeros(chosen.shape, np.float32)
    for row, experts in enumerate(chosen):
        for place, expert in enumerate(experts):
            kept[row, place] = taken[expert] < most
            taken[expert] += 1
    assert 0 < kept.sum() < kept.size
    router = layer.gate.forward

    def dropping(x):
        scores, chosen, weights = router(x)
        return scores, chosen, weights * paddle.to_tensor(kept)

    set_capacity(most)
    found = results(layer, x, lambda x: layer(x, BATCH))
    set_capacity(None)
    layer.gate.forward = dropping
    for a, b in zip(found, results(layer, x, lambda x: layer(x, BATCH))):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_a_capacity_that_is_enough_changes_nothing():
    layer, x = made(), hidden()
    expected = layer(x, BATCH).numpy()
    set_capacity(ROWS * TOKENS, 4)
    np.testing.assert_array_equal(layer(x, BATCH).numpy(), expected)


def test_capacities_that_contradict():
    with pytest.raises(UsageError, match="expert_max_capacity=2 is less than expert_min_capacity=4"):
        set_capacity(2, 4)


def test_the_gradient_is_that_of_the_formula():
    logits = paddle.to_tensor(np.random.default_rng(0).standard_normal((ROWS * TOKENS, 5), dtype=np.float32))
    logits.stop_gradient = False
    scores = F.softmax(logits, -1)
    chosen = paddle.topk(scores, 2)[1]
    shares = F.one_hot(chosen, 5).sum(1).reshape([ROWS, TOKENS, 5]).sum(1) * (5 / (2 * TOKENS))
    loss = (shares * scores.reshape([ROWS, TOKENS, 5]).mean(1)).sum(-1).mean() * 0.7
    expected = paddle.grad(loss, logits, retain_graph=True)[0].numpy()
    weights = balanced(paddle.take_along_axis(scores, chosen, -1), scores, chosen, ROWS, 0.7)
    np.testing.assert_allclose(paddle.grad((weights * 0).sum(), logits)[0].numpy(), expected, rtol=1e-4, atol=1e-8)
    np.testing.assert_array_equal(weights.numpy(), paddle.take_along_axis(scores, chosen, -1).numpy())


def test_only_training_is_balanced():
    layer, x = made(balance=1.0), hidden()
    gradients = {}
    for training in (True, False):
        layer.train() if training else layer.eval()
        gradients[training] = results(layer, x, lambda x: layer(x, BATCH))[2]
    layer.balance = 0.0
    layer.train()
    unbalanced = results(layer, x, lambda x: layer(x, BATCH))[2]
    np.testing.assert_array_equal(gradients[False], unbalanced)
    assert np.abs(gradients[True] - unbalanced).max() > 1e-3


def test_the_balance_does_not_depend_on_the_split_and_is_in_no_loss(batch):
    sizes = dict(vocab_size=83, hidden_size=24, intermediate_size=20, num_hidden_layers=2, num_attention_heads=4)
    sizes.update(num_key_value_heads=2, initializer_range=0.2)
    found = {}
    for weight in (0.0, 3.0):
        config = MixtralConfig(**sizes, output_router_logits=True, router_aux_loss_coef=weight)
        for rows in (4, 2, 1):
            model = MixtralForCausalLM.from_config(config)
            model.train()
            parts = [{name: x[i : i + rows] for name, x in batch.items()} for i in range(0, 4, rows)]
            loss = float(model.train_batch(parts, scale=8.0))
            gate = model.mixtral.layers[0].block_sparse_moe.gate.weight
            found[weight, rows] = loss, gate.grad.numpy() / 8.0
    for (weight, _), (loss, gradient) in found.items():
        assert loss == pytest.approx(found[0.0, 4][0], rel=1e-6)
        np.testing.assert_allclose(gradient, found[weight, 4][1], rtol=1e-4, atol=1e-7)
    assert np.abs(found[3.0, 4][1] - found[0.0, 4][1]).max() > 1e-3
