"""The layer that predicts the token after the next. Its gradients are compared with the families'."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.nn.program import read
from paddlenlp.parallel.random import initialise
from paddlenlp.transformers import DeepseekV3Config, DeepseekV3ForCausalLM

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "q_lora_rank": None,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 4,
    "n_routed_experts": None,
}


def made(weight):
    model = DeepseekV3ForCausalLM.from_config(DeepseekV3Config(**SIZES, num_nextn_predict_lambda=weight))
    initialise(model, 0.3)
    model.train()
    return model


def batch():
    ids = np.arange(10).reshape(2, 5)
    labels = np.array([[1, 2, -100, 4, 20], [6, 7, 8, 9, -100]])
    return {"input_ids": paddle.to_tensor(ids), "labels": paddle.to_tensor(labels)}


def gradients(weight):
    model = made(weight)
    loss = float(model.train_batch([batch()]))
    return loss, {name: param.grad for name, param in model.named_parameters() if not param.stop_gradient}


def test_what_it_reads():
    ids, labels = (x.reshape([2, 5]).numpy().tolist() for x in read(made(0.5), batch()).batch.ahead)
    assert ids == [[1, 2, 3, 4, 20], [6, 7, 8, 9, 9]]
    assert labels == [[2, -100, 4, 20, -100], [7, 8, 9, -100, -100]]
    assert read(made(0.0), batch()).batch.ahead is None


def test_its_loss_acts_through_its_gradient_only():
    loss, plain = gradients(0.0)
    assert not any("layers.1." in name for name in plain)
    found = [gradients(weight) for weight in (0.25, 0.5)]
    assert [other for other, _ in found] == [loss, loss]
    for name, grad in found[0][1].items():
        base = plain[name].numpy() if name in plain else 0.0
        np.testing.assert_allclose(2 * (grad.numpy() - base), found[1][1][name].numpy() - base, atol=1e-5)
    extra = [name for name, grad in found[0][1].items() if name not in plain or (grad != plain[name]).any()]
    assert sorted(extra) == sorted(found[0][1])


@pytest.mark.parametrize("training", [True, False])
def test_it_does_nothing_outside_of_training_steps(training):
    model, ids = made(0.5), batch()["input_ids"]
    model.training = training
    before = model(ids).numpy()
    layer = model.deepseek_v3.layers[1]
    layer.eh_proj.weight.set_value(paddle.full_like(layer.eh_proj.weight, float("nan")))
    np.testing.assert_array_equal(model(ids).numpy(), before)
    assert np.isfinite(float(model.eval_batch(batch())[0]))
