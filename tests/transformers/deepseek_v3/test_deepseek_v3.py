"""What only DeepSeek-V3 has: biases that follow the load, and stored layers for tokens further on."""

from __future__ import annotations

import numpy as np
import paddle
import pytest

from paddlenlp.parallel.random import initialise
from paddlenlp.transformers import DeepseekV3Config, DeepseekV3ForCausalLM
from paddlenlp.transformers.conversion_utils import hf_name
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.tensor_files import TensorFiles

SIZES = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 24,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "q_lora_rank": None,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 4,
    "qk_rope_head_dim": 4,
    "v_head_dim": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 2,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
BIAS = "deepseek_v3.layers.1.mlp.gate.e_score_correction_bias"


def made(**values):
    model = DeepseekV3ForCausalLM.from_config(DeepseekV3Config(**SIZES, **values))
    initialise(model, 0.3)
    return model


def batch(rows=2):
    tokens = np.random.default_rng(0).integers(0, 32, (rows, 9))
    return {"input_ids": paddle.to_tensor(tokens[:, :-1]), "labels": paddle.to_tensor(tokens[:, 1:])}


def test_how_experts_are_chosen():
    gate = made().deepseek_v3.layers[1].mlp.gate
    assert (gate.scoring, gate.groups, gate.best_groups, gate.renormalise, gate.scale) == ("sigmoid", 2, 1, True, 2.5)
    assert gate.e_score_correction_bias.stop_gradient


@pytest.mark.parametrize("step", [0.0, 0.125])
def test_biases_move_at_the_end_of_a_step(step):
    model = made(bias_update_speed=step)
    model.train()
    bias = dict(model.named_parameters())[BIAS]
    model.train_batch([batch()])
    assert not bias.numpy().any()
    model.after_update(applied=True)
    assert set(np.abs(bias.numpy())) <= {0.0, step} and bias.numpy().any() == bool(step)


def test_stored_layers_behind_the_last_are_left_unread(hf, tmp_path):
    model = made(num_nextn_predict_layers=1)
    arrays = {hf_name(model, name): param.numpy() for name, param in model.named_parameters()}
    transposed = {hf_name(model, name) for name, param in model.named_parameters() if param.transposed}
    arrays = {name: np.ascontiguousarray(x.T) if name in transposed else x for name, x in arrays.items()}
    spare = {f"model.layers.2.{name}": np.zeros([3, 2], np.float32) for name in ("eh_proj.weight", "enorm.weight")}
    config = {**SIZES, "architectures": ["DeepseekV3ForCausalLM"], "model_type": "deepseek_v3"}
    stored = {**arrays, **spare}
    hf.write_folder(tmp_path, stored, metadata={"format": "pt"}, config={**config, "num_nextn_predict_layers": 1})
    again = DeepseekV3ForCausalLM.from_pretrained(tmp_path)
    for name, param in again.named_parameters():
        np.testing.assert_array_equal(param.numpy(), dict(model.named_parameters())[name].numpy())
    hf.write_folder(tmp_path, stored, metadata={"format": "pt"}, config={**config, "num_nextn_predict_layers": 0})
    with pytest.raises(UsageError, match="2 not part of the model"):
        DeepseekV3ForCausalLM.from_pretrained(tmp_path)


def test_the_copies_of_table_and_head_in_a_layer_ahead_are_left_unread(hf, tmp_path):
    model = made(num_nextn_predict_lambda=0.5)
    model.save_pretrained(tmp_path / "saved", save_to_hf=True)
    stored = dict(TensorFiles(tmp_path / "saved"))
    assert "model.layers.2.eh_proj.weight" in stored and "model.layers.2.shared_head.norm.weight" in stored
    copies = {
        "model.layers.2.embed_tokens.weight": stored["model.embed_tokens.weight"],
        "model.layers.2.shared_head.head.weight": stored["lm_head.weight"],
    }
    config = model.config.to_hf_dict()
    hf.write_folder(tmp_path / "released", {**stored, **copies}, metadata={"format": "pt"}, config=config)
    again = DeepseekV3ForCausalLM.from_pretrained(tmp_path / "released")
    for name, param in again.named_parameters():
        np.testing.assert_array_equal(param.numpy(), dict(model.named_parameters())[name].numpy())


def test_more_than_one_layer_ahead_is_refused():
    with pytest.raises(UsageError, match="num_nextn_predict_lambda=0.5 needs num_nextn_predict_layers=1, found 2"):
        DeepseekV3Config(**SIZES, num_nextn_predict_lambda=0.5, num_nextn_predict_layers=2)


def test_the_score_scale_grows_with_the_context():
    width = SIZES["qk_nope_head_dim"] + SIZES["qk_rope_head_dim"]
    scaling = {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096, "mscale": 1.0}
    assert DeepseekV3Config(**SIZES, rope_scaling=scaling).score_scale == width**-0.5
    config = DeepseekV3Config(**SIZES, rope_scaling={**scaling, "mscale_all_dim": 1.0})
    assert config.score_scale == pytest.approx(width**-0.5 * (0.1 * np.log(40) + 1) ** 2)
