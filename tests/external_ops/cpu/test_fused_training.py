"""Attention and the head of `nn/fused` against the plain ones, and whole training on the fused path."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddlenlp.nn import kernels, plain
from paddlenlp.nn.documents import Documents
from paddlenlp.nn.fused import attention, loss
from paddlenlp.trainer.optimizer import build_optimizer
from paddlenlp.trainer.step import TrainStep
from paddlenlp.trainer.timers import Phases
from paddlenlp.trainer.training_args import TrainingArguments
from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM

from .test_products import assert_near


@pytest.fixture(autouse=True)
def _afterwards_as_before():
    yield
    kernels.configure()


def leaf(*shape):
    x = paddle.randn(shape)
    x.stop_gradient = False
    return x


def with_gradients(function, inputs):
    for x in inputs:
        if x.grad is not None:
            x.clear_gradient(set_to_zero=False)
    y = function(*inputs)
    (y * paddle.linspace(-1, 2, y.size).reshape(y.shape)).sum().backward()
    return [y.numpy(), *(None if x.grad is None else x.grad.numpy() for x in inputs)]


def assert_equal(fast, slow, inputs):
    for found, wanted in zip(with_gradients(fast, inputs), with_gradients(slow, inputs)):
        np.testing.assert_allclose(found, wanted, atol=2e-6 * np.abs(wanted).max())


NUMBERS = paddle.to_tensor([[0] * 9 + [1] * 30 + [2] * 31, [3] * 70])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"scale": 0.3, "window": 11},
        {"documents": Documents(NUMBERS)},
        {"documents": Documents(NUMBERS), "window": 20},
        {"slopes": np.array([0.5, 0.25, 0.1, 0.0], "float32"), "window": 40},
        {"mask": NUMBERS > 0, "slopes": np.array([0.5, 0.25, 0.1, 0.0], "float32")},
        {"bias": paddle.linspace(-2, 1, 70 * 70).reshape([1, 1, 70, 70])},
    ],
)
def test_attention(options):
    paddle.seed(1)
    inputs = [leaf(2, 70, 4, 24), leaf(2, 70, 2, 24), leaf(2, 70, 2, 40)]
    assert_equal(lambda *x: attention.attention(*x, **options), lambda *x: plain.attention(*x, **options), inputs)


def test_attention_with_inputs_that_need_no_gradient():
    q, k, v = leaf(1, 20, 2, 8), paddle.randn([1, 20, 2, 8]), leaf(1, 20, 2, 8)
    _, *grads = with_gradients(attention.attention, [q, k, v])
    assert [grad is None for grad in grads] == [False, True, False]


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("ignored", [0, 5, 40])
def test_head_loss(transpose, ignored):
    paddle.seed(2)
    labels = paddle.randint(0, 90, [40])
    labels[:ignored] = plain.IGNORED
    inputs = [leaf(40, 24), leaf(90, 24) if transpose else leaf(24, 90)]
    found = with_gradients(lambda *x: 0.3 * loss.head_loss(*x, labels, transpose), inputs)
    wanted = with_gradients(lambda *x: 0.3 * plain.head_loss(*x, labels, transpose), inputs)
    assert found[0].shape == ()
    for one, other in zip(found, wanted):
        assert_near(one, other)


def test_the_loss_alone_needs_no_gradients():
    x, weight, labels = leaf(40, 24), leaf(24, 90), paddle.arange(40)
    with paddle.no_grad():
        found = loss.head_loss(x, weight, labels)
    np.testing.assert_allclose(found, plain.head_loss(x, weight, labels), rtol=1e-6)


def losses_of_training(word):
    """50 steps of a small model with all flags at `word`, and the operations that ran."""
    flags = SimpleNamespace(**{**dict.fromkeys(kernels.FLAGS, word), "use_fused_dropout_add": False})
    kernels.configure(flags)
    used = {state.op for state in kernels.states() if state.used}
    paddle.seed(3)
    config = LlamaConfig(
        vocab_size=300, hidden_size=48, intermediate_size=80, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=64,
    )  # fmt: skip
    model = LlamaForCausalLM.from_config(config)
    settings = TrainingArguments(output_dir="unused", learning_rate=1e-3, weight_decay=0.1, max_grad_norm=1.0)
    rates = paddle.optimizer.lr.LambdaDecay(1e-3, lambda step: 1.0)
    loop = TrainStep(model, build_optimizer(model, settings, rates), rates, lambda event: None, Phases(False))
    tokens, losses = paddle.to_tensor(np.random.RandomState(4).randint(0, 300, [50, 2, 65])), []
    for number, batch in enumerate(tokens, 1):
        report = loop.run(number, [{"input_ids": batch[:, :-1], "labels": batch[:, 1:]}])
        losses.append(report.loss)
    return losses, used


def test_losses_of_training_are_those_of_the_plain_path():
    plainly, none = losses_of_training("false")
    fused, used = losses_of_training("auto")
    assert not none and {"attention", "head_loss"} <= used
    assert plainly[-1] < plainly[0]
    np.testing.assert_allclose(fused, plainly, rtol=1e-5)
