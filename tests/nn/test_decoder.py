"""The model as a list of stages, the loss over several micro batches, masks, tied heads, and counting."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import paddle
import pytest

from paddlenlp.nn import Linear, decoder
from paddlenlp.transformers.llama.modeling import LlamaForCausalLM, LlamaForCausalLMPipe, LlamaModel
from paddlenlp.utils.errors import UsageError


def gradients(model):
    return {name: param.grad.numpy() for name, param in model.named_parameters()}


def split(batch, sizes):
    bounds = np.cumsum([0, *sizes])
    return [{name: value[a:b] for name, value in batch.items()} for a, b in zip(bounds, bounds[1:])]


def test_stages_have_the_names_of_the_parameters(build):
    model = build()
    names = [name for name, _ in LlamaForCausalLM.stages(model.config)]
    assert names == ["llama.embed_tokens", *(f"llama.layers.{i}" for i in range(3)), "llama.norm", "lm_head"]
    assert all(any(key.startswith(name + ".") for key in model.state_dict()) for name in names)
    assert [layer.index for layer in model.llama.layers] == [0, 1, 2]


def test_pipe_is_the_same_model_under_another_name(build, batch):
    model = build()
    piped = LlamaForCausalLMPipe.from_config(model.config)
    assert type(piped).__name__ == "LlamaForCausalLMPipe" and isinstance(piped, LlamaForCausalLM)
    assert list(piped.state_dict()) == list(model.state_dict())
    np.testing.assert_array_equal(piped(**batch).numpy(), model(**batch).numpy())


def test_every_parameter_says_how_it_is_cut(build):
    for name, param in build(attention_bias=True, fuse_attention_ffn=True).named_parameters():
        axis, parts = param.tp_layout.axis, param.tp_layout.parts
        if "norm" in name or name.endswith(("o_proj.bias", "down_proj.bias")):
            assert axis is None
        elif name.endswith("bias") or "embed" in name or name.endswith(("o_proj.weight", "down_proj.weight")):
            assert axis == 0
        else:
            assert axis == 1
        assert parts == ((40, 40) if "gate_up" in name else ())
        assert param.whole_shape == tuple(param.shape)
        assert param.transposed == ("_proj.weight" in name or name == "lm_head.weight")


def test_base_model_gives_hidden_states(build, batch):
    model = build()
    base = LlamaModel.from_config(model.config)
    base.set_state_dict({k[len("llama.") :]: v for k, v in model.state_dict().items() if k.startswith("llama.")})
    hidden = base(batch["input_ids"])
    assert hidden.shape == [4, 16, 24]
    logits = paddle.matmul(hidden, model.lm_head.weight)
    np.testing.assert_allclose(logits.numpy(), model(batch["input_ids"]).numpy(), atol=1e-5)


@pytest.mark.parametrize(("axis", "flag"), [("sep", "sep_parallel_degree"), ("cp", "context_parallel_degree")])
def test_models_whose_rows_are_cut_are_not_called_with_whole_ones(build, batch, monkeypatch, axis, flag):
    models = [build(), LlamaModel.from_config(build().config)]
    sizes = {name: SimpleNamespace(size=2 if name == axis else 1) for name in ("pp", "sep", "cp")}
    monkeypatch.setattr(decoder, "topology", lambda: SimpleNamespace(**sizes))
    for model in models:
        with pytest.raises(UsageError, match=f"{flag}=2 .*{type(model).__name__}.*train_batch"):
            model(batch["input_ids"])


def test_loss_is_the_mean_over_kept_labels(build, batch):
    model = build()
    logits = model(batch["input_ids"]).numpy().astype(np.float64).reshape(-1, 83)
    labels = batch["labels"].numpy().reshape(-1)
    losses = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(labels)), labels.clip(0)]
    kept = labels != -100
    assert float(model(**batch)) == pytest.approx(losses[kept].mean(), rel=1e-5)
    total, count = model.eval_batch(batch)
    assert float(total) == pytest.approx(losses[kept].sum(), rel=1e-5) and float(count) == kept.sum()
    assert total.stop_gradient and total.dtype == paddle.float32


@pytest.mark.parametrize("sizes", [(4,), (2, 2), (1, 1, 1, 1), (1, 3)])
def test_any_split_of_a_step_gives_the_same_loss_and_gradients(build, batch, sizes):
    whole, parts = build(), build()
    expected = whole(**batch)
    expected.backward()
    loss = parts.train_batch(split(batch, sizes))
    assert loss.stop_gradient and loss.dtype == paddle.float32 and loss.shape == []
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
    expected, found = gradients(whole), gradients(parts)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-7, err_msg=name)


def test_scale_multiplies_gradients_but_not_the_loss(build, batch):
    plain, scaled = build(), build()
    assert float(plain.train_batch([batch])) == float(scaled.train_batch([batch], scale=64.0))
    for name, value in gradients(plain).items():
        np.testing.assert_allclose(gradients(scaled)[name], 64 * value, rtol=1e-5)


def test_nothing_kept_gives_zero_and_no_nan(build, batch):
    model = build()
    empty = {**batch, "labels": paddle.full_like(batch["labels"], -100)}
    assert float(model.train_batch([empty])) == 0
    assert all((value == 0).all() for value in gradients(model).values())
    assert float(model(**empty)) == 0


def test_no_token_sees_a_later_one(build, batch):
    model, ids = build(), batch["input_ids"]
    changed = ids.clone()
    changed[:, 10:] = (ids[:, 10:] + 1) % 83
    before, after = model(ids).numpy(), model(changed).numpy()
    np.testing.assert_array_equal(before[:, :10], after[:, :10])
    assert (before[:, 10:] != after[:, 10:]).any(-1).all()


def test_a_whole_mask_stands_in_place_of_the_causal_rule(build, batch):
    model, ids = build(), batch["input_ids"]
    causal = paddle.tril(paddle.ones([1, 1, 16, 16], "bool"))
    np.testing.assert_allclose(model(ids, attention_mask=causal).numpy(), model(ids).numpy(), atol=1e-5)
    blocks = causal & (paddle.arange(16) // 8 == (paddle.arange(16) // 8).unsqueeze(-1))
    positions = (paddle.arange(16) % 8).unsqueeze(0).expand([4, 16])
    halves = model(ids, attention_mask=blocks, position_ids=positions).numpy()
    np.testing.assert_allclose(halves[:, 8:], model(ids[:, 8:]).numpy(), atol=1e-5)


def test_tied_head_shares_the_embedding(build, batch):
    model, untied = build(tie_word_embeddings=True), build()
    assert "lm_head.weight" not in model.state_dict()
    assert untied.num_parameters() - model.num_parameters() == 83 * 24
    untied.set_state_dict({**model.state_dict(), "lm_head.weight": model.llama.embed_tokens.weight.t()})
    assert float(model.train_batch([batch])) == pytest.approx(float(untied.train_batch([batch])), rel=1e-6)
    both = untied.llama.embed_tokens.weight.grad + untied.lm_head.weight.grad.t()
    np.testing.assert_allclose(model.llama.embed_tokens.weight.grad.numpy(), both.numpy(), atol=1e-7)
    np.testing.assert_allclose(model(batch["input_ids"]).numpy(), untied(batch["input_ids"]).numpy(), atol=1e-5)


def test_counting(build):
    model = build()
    layer = 24 * (24 + 12 + 12) + 24 * 24 + 3 * 24 * 40
    assert model.num_parameters() == 2 * 83 * 24 + 3 * (layer + 2 * 24) + 24
    assert model.num_parameters() == sum(param.size for param in model.parameters())
    flops = 6 * (3 * layer + 83 * 24) + 12 * 3 * 24 * 16
    assert model.flops_per_token(16) == flops
    assert build(tie_word_embeddings=True).flops_per_token(16) == flops
    assert build(head_dim=10).flops_per_token(16) == flops + 6 * 3 * 24 * 4 * (4 + 2 + 2 + 4) + 12 * 3 * 16 * 16


def test_attention_dropout_acts_in_training_only(build, batch):
    model, plain = build(attention_dropout=0.5), build()
    model.eval()
    np.testing.assert_array_equal(model(**batch).numpy(), plain(**batch).numpy())
    model.train()
    paddle.seed(1)
    first = float(model(**batch))
    paddle.seed(2)
    assert float(model(**batch)) != first
    paddle.seed(1)
    assert float(model(**batch)) == first


def test_linear_adds_its_bias():
    layer = Linear(3, 2, bias=True)
    layer.weight.set_value(np.arange(6, dtype="float32").reshape(3, 2))
    layer.bias.set_value(np.array([10, 20], "float32"))
    np.testing.assert_array_equal(layer(paddle.ones([1, 3])).numpy(), [[16, 29]])
