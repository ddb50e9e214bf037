"""Initial values follow from seed and name alone."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.parallel import Axis, Topology, random
from paddlenlp.parallel.layout import Layout
from paddlenlp.parallel.random import init_seed, initialise, set_init_seed, skip_initialisation
from paddlenlp.transformers import ChatGLMConfig, ChatGLMForCausalLM
from paddlenlp.transformers.llama.configuration import LlamaConfig
from paddlenlp.transformers.llama.modeling import LlamaForCausalLM

CONFIG = LlamaConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=8,
    num_attention_heads=4,
    num_key_value_heads=2,
    initializer_range=0.05,
)


@pytest.fixture(autouse=True)
def _seed():
    set_init_seed(7)
    yield
    set_init_seed(random.DEFAULT_SEED)


def weights(**changes):
    config = LlamaConfig.from_dict({**CONFIG.to_dict(), **changes})
    return {name: param.numpy() for name, param in LlamaForCausalLM(config).named_parameters()}


def test_same_seed_same_weights_and_global_random_states_are_left_alone():
    paddle.seed(1)
    np.random.seed(1)
    before = paddle.randn([2]).numpy(), np.random.rand()
    paddle.seed(1)
    np.random.seed(1)
    first = weights()
    after = paddle.randn([2]).numpy(), np.random.rand()
    second = weights()
    assert all(np.array_equal(first[name], second[name]) for name in first)
    assert np.array_equal(before[0], after[0]) and before[1] == after[1]


def test_seed_and_name_change_the_values():
    first = weights()
    assert not np.array_equal(
        first["llama.layers.0.self_attn.k_proj.weight"], first["llama.layers.1.self_attn.k_proj.weight"]
    )
    set_init_seed(8)
    assert not np.array_equal(first["lm_head.weight"], weights()["lm_head.weight"])


def test_a_deeper_model_starts_with_the_same_first_layers():
    name = "llama.layers.1.mlp.gate_proj.weight"
    np.testing.assert_array_equal(weights(num_hidden_layers=2)[name], weights()[name])


def test_deviations():
    found = weights()
    for name, value in found.items():
        if "norm" in name:
            assert (value == 1).all()
        else:
            expected = 0.05 / 4 if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.05
            assert value.std() == pytest.approx(expected, rel=0.1), name
            assert abs(value.mean()) < expected / 5


def test_parts_of_a_fused_matrix_may_have_deviations_of_their_own():
    config = dict(vocab_size=20, hidden_size=64, inner_hidden_size=64, num_hidden_layers=8, num_attention_heads=4)
    model = ChatGLMForCausalLM(ChatGLMConfig(**config, initializer_range=0.05))
    layer = model.chatglm.transformer.layers[3]
    weight = layer.attention.query_key_value.weight
    found = [part.std() for part in weight.fusion.separate(weight.numpy())]
    found += [layer.mlp.dense_h_to_4h.weight.numpy().std()]
    np.testing.assert_allclose(found, [0.05, 0.05, 0.05 / 4, 0.05 / 4], rtol=0.05)


def test_fused_matrices_start_from_the_separate_ones():
    separate, fused = weights(), weights(fuse_attention_qkv=True, fuse_attention_ffn=True)
    model = LlamaForCausalLM(CONFIG)
    fusion = model.llama.layers[0].self_attn.q_proj.weight.fusion
    parts = fusion.separate(fused["llama.layers.0.self_attn.qkv_proj.weight"])
    for part, found in zip("qkv", parts):
        np.testing.assert_array_equal(found, separate[f"llama.layers.0.self_attn.{part}_proj.weight"])


def test_ranks_get_cuts_of_the_same_tensor(monkeypatch):
    layer = paddle.nn.Linear(6, 8)
    whole = random._normal("w", (6, 8), 1.0)
    for rank in range(2):
        monkeypatch.setattr(random, "topology", lambda rank=rank: Topology(tp=Axis(2, rank)))
        share = layer.create_parameter([6, 4])
        share.tp_layout, share.whole_shape, share.init_scale = Layout(1), (6, 8), 1.0
        random.fill(share, whole)
        np.testing.assert_array_equal(share.numpy(), whole[:, 4 * rank : 4 * rank + 4])


def test_low_precision_storage_starts_from_the_rounded_values():
    low = LlamaForCausalLM.from_config(CONFIG, dtype="bfloat16").lm_head.weight
    expected = paddle.to_tensor(weights()["lm_head.weight"]).astype("bfloat16")
    assert low.dtype == paddle.bfloat16
    np.testing.assert_array_equal(low.astype("float32").numpy(), expected.astype("float32").numpy())


def test_initialisation_can_be_left_out():
    with skip_initialisation():
        model = LlamaForCausalLM(CONFIG)
    assert float(model.lm_head.weight.abs().sum()) == 0
    initialise(model, 0.05)
    assert float(model.lm_head.weight.abs().sum()) > 0


def test_streams_are_stable():
    """Values written down, so that a new version cannot silently start from other weights."""
    assert init_seed("lm_head.weight") == 0x9714AB587B54085C9455ECC45885FA8
    assert random._normal("lm_head.weight", (3,), 1.0).tolist() == pytest.approx([-2.4547007, -0.6574069, 1.3342374])
