"""Configurations: spellings, derived values, what is saved, and contradictions."""

from __future__ import annotations

import copy
import json
import subprocess
import sys

import pytest

from paddlenlp import __version__
from paddlenlp.transformers import LlamaConfig, PretrainedConfig
from paddlenlp.utils.errors import UsageError

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
LONGROPE = {"rope_type": "longrope", "short_factor": [1.0], "original_max_position_embeddings": 8}


class BloomLike(PretrainedConfig):
    """A family whose own names differ from those the parts read."""

    model_type = "bloom_like"
    attribute_map = {"num_attention_heads": "n_head", "n_embed": "hidden_size"}
    defaults = {"hidden_size": 64, "n_head": 8}


def test_defaults_are_llama_7b():
    config = LlamaConfig()
    found = [config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers]
    assert found == [32000, 4096, 11008, 32]
    assert [config.pad_token_id, config.bos_token_id, config.eos_token_id] == [0, 1, 2]
    assert (config.rms_norm_eps, config.rope_theta, config.rope_scaling) == (1e-6, 10000.0, None)
    assert config.tie_word_embeddings is False and config.use_cache is True


def test_other_spellings_read_and_write_the_same_value():
    config = LlamaConfig(n_embd=64, n_head=4, n_layer=3, n_inner=96, n_positions=77, activation_function="gelu")
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (64, 4, 3)
    assert (config.intermediate_size, config.max_position_embeddings, config.hidden_act) == (96, 77, "gelu")
    config.n_embd = 128
    assert config.hidden_size == config.n_embd == 128
    config.hidden_size = 32
    assert config.n_embd == 32
    assert "n_embd" not in config.to_dict()


def test_a_family_may_keep_another_name_for_what_the_parts_read():
    config = BloomLike(num_attention_heads=4)
    assert config.n_head == config.num_attention_heads == 4
    assert config.head_dim == 16 and config.num_key_value_heads == 4
    saved = config.to_dict()
    assert saved["n_head"] == 4 and "num_attention_heads" not in saved and "head_dim" not in saved


def test_derived_values_follow_until_they_are_set():
    config = LlamaConfig(hidden_size=64, num_attention_heads=4)
    assert (config.head_dim, config.num_key_value_heads) == (16, 4)
    config.num_attention_heads = 2
    assert (config.head_dim, config.num_key_value_heads) == (32, 2)
    config.num_key_value_heads = 1
    config.head_dim = 8
    assert (config.head_dim, config.num_key_value_heads) == (8, 1)
    config.head_dim = None
    assert config.head_dim == 32
    assert LlamaConfig(hidden_size=64, num_attention_heads=4, head_dim=None).to_dict()["head_dim"] == 16


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_dtype_in_every_spelling(key):
    assert LlamaConfig(**{key: "torch.bfloat16"}).dtype == "bfloat16"
    assert LlamaConfig(**{key: "bfloat16"}).torch_dtype == "bfloat16"


def test_unknown_keys_are_kept_and_saved_back(tmp_path):
    config = LlamaConfig(pretraining_tp=1, something={"deep": [1, 2]})
    config.save_pretrained(tmp_path)
    again = LlamaConfig.from_pretrained(tmp_path)
    assert again.something == {"deep": [1, 2]} and again.pretraining_tp == 1
    assert again == config


def test_unknown_attribute_is_named():
    with pytest.raises(AttributeError, match="LlamaConfig has no value 'hiden_size'"):
        LlamaConfig().hiden_size  # noqa: B018
    assert LlamaConfig().get("hiden_size", 5) == 5


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_scaling": LLAMA3, "rope_theta": 5e5},
        {"rope_scaling": {**LLAMA3, "type": "llama3"}, "rope_theta": 5e5},
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}},
        {"rope_parameters": {**LLAMA3, "rope_theta": 5e5}, "rope_scaling": LLAMA3},
    ],
)
def test_rope_spellings_of_llama3(spelling):
    config = LlamaConfig(**spelling)
    assert config.rope_scaling == LLAMA3
    assert config.rope_theta == 5e5
    assert config.get("rope_parameters") is None


def test_rope_spellings_of_the_reference():
    config = LlamaConfig(rope_scaling_type="linear", rope_scaling_factor=4.0)
    assert config.rope_scaling == {"rope_type": "linear", "factor": 4.0}
    assert LlamaConfig(rope_scaling_type="dynamic_ntk", rope_scaling_factor=2.0).rope_scaling["rope_type"] == "dynamic"
    assert LlamaConfig(rope_scaling={"type": "linear", "factor": 4.0}).rope_scaling == config.rope_scaling
    assert LlamaConfig(rope_scaling_type=None, rope_scaling_factor=1.0).rope_scaling is None
    assert "rope_scaling_factor" not in config.to_dict()


def test_default_rope_means_no_scaling():
    config = LlamaConfig(rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    assert config.rope_scaling is None and config.rope_theta == 1e6


def test_two_rope_spellings_that_disagree_are_refused():
    with pytest.raises(UsageError, match="rope_scaling and rope_scaling_type/rope_scaling_factor disagree"):
        LlamaConfig(rope_scaling=LLAMA3, rope_scaling_type="linear", rope_scaling_factor=2.0)


def test_contradictions_are_listed_together():
    with pytest.raises(UsageError) as caught:
        LlamaConfig(hidden_size=65, num_attention_heads=8, num_key_value_heads=3, rope_scaling={"type": "llama3"})
    text = str(caught.value)
    assert "hidden_size=65 is not a multiple of num_attention_heads=8" in text
    assert "num_attention_heads=8 is not a multiple of num_key_value_heads=3" in text
    assert "rope_scaling of type 'llama3' lacks factor, low_freq_factor, high_freq_factor" in text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be a positive whole number, found 0"),
        ({"hidden_size": "64"}, "hidden_size must be a positive whole number, found '64'"),
        ({"num_hidden_layers": True}, "num_hidden_layers must be a positive whole number"),
        ({"head_dim": 7}, "head_dim=7 must be even"),
        ({"rope_scaling": {"rope_type": "spiral"}}, "rope_type must be one of default, linear, ntk, dynamic, "),
        (
            {"rope_scaling": {"rope_type": "yarn", "original_max_position_embeddings": 8, "mscale": "x"}},
            "mscale must be a",
        ),
        (
            {"rope_scaling": {**LONGROPE, "long_factor": 2.0}},
            "long_factor must be a list of positive numbers, found 2.0",
        ),
        ({"rope_scaling": {"rope_type": "linear", "factor": -1}}, "factor must be a positive number, found -1"),
        ({"alibi": True}, "alibi=true"),
    ],
)
def test_one_contradiction(values, message):
    with pytest.raises(UsageError) as caught:
        LlamaConfig(**values)
    assert message in str(caught.value)


def test_odd_hidden_size_with_its_own_head_dim_is_fine():
    assert LlamaConfig(hidden_size=65, num_attention_heads=8, head_dim=16).head_dim == 16


def test_a_change_after_construction_is_found_by_validate():
    config = LlamaConfig(hidden_size=64, num_attention_heads=4)
    config.num_attention_heads = 5
    with pytest.raises(UsageError, match="not a multiple"):
        config.validate()


def test_repr_is_the_class_name_and_sorted_json():
    config = LlamaConfig(hidden_size=64, num_attention_heads=4, architectures=["LlamaForCausalLM"])
    name, _, text = repr(config).partition(" ")
    assert name == "LlamaConfig"
    assert text == json.dumps(json.loads(text), indent=2, sort_keys=True) + "\n"
    shown = json.loads(text)
    assert shown["architectures"] == ["LlamaForCausalLM"] and shown["model_type"] == "llama"
    assert shown["paddlenlp_version"] == __version__
    # Values of the family are shown even at their default; common ones only where they differ.
    assert shown["vocab_size"] == 32000 and shown["tie_word_embeddings"] is False
    assert "dtype" not in shown and "dtype" in config.to_dict()


def test_saved_file_is_the_repr_and_reads_back_equal(tmp_path):
    config = LlamaConfig(
        hidden_size=64, num_attention_heads=4, rope_scaling=LLAMA3, dtype="float16", eos_token_id=[7, 8]
    )
    config.save_pretrained(tmp_path / "new")
    assert (tmp_path / "new" / "config.json").read_text() == config.to_json_string()
    again = LlamaConfig.from_json_file(tmp_path / "new" / "config.json")
    assert again.to_dict() == config.to_dict()
    assert again.to_json_string(use_diff=False) == config.to_json_string(use_diff=False)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["config.json"]


def test_explicit_null_is_kept():
    assert LlamaConfig.from_dict({"pad_token_id": None}).pad_token_id is None
    saved = LlamaConfig.from_dict(json.loads(LlamaConfig(bos_token_id=None).to_json_string()))
    assert saved.bos_token_id is None


def test_hugging_face_dictionary(tmp_path):
    config = LlamaConfig(dtype="bfloat16")
    config.save_pretrained(tmp_path, save_to_hf=True)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["torch_dtype"] == "bfloat16"
    assert "dtype" not in saved and "paddlenlp_version" not in saved
    assert LlamaConfig.from_pretrained(tmp_path) == config


def test_overrides_win(tmp_path):
    LlamaConfig(hidden_size=64, num_attention_heads=4).save_pretrained(tmp_path)
    assert LlamaConfig.from_pretrained(tmp_path, n_layer=2, vocab_size=99).num_hidden_layers == 2


def test_legacy_files_are_flattened():
    legacy = {
        "init_args": [{"vocab_size": 11, "hidden_size": 64, "num_attention_heads": 4, "init_class": "LlamaModel"}],
        "init_class": "LlamaForCausalLM",
    }
    config = LlamaConfig.from_dict(legacy)
    assert (config.vocab_size, config.hidden_size) == (11, 64)
    assert config.architectures == ["LlamaForCausalLM"]
    assert config.get("init_args") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"a": 1,\n  oops}', "config.json:2: not valid JSON"),
        ("[1, 2]", "expected a JSON object, found list"),
        ('{"vocab_size": -1}', "vocab_size must be a positive whole number"),
    ],
)
def test_bad_files_are_named(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError) as caught:
        LlamaConfig.from_pretrained(tmp_path)
    assert message in str(caught.value) and str(tmp_path) in str(caught.value)
    with pytest.raises(UsageError, match="config.json"):
        LlamaConfig.from_json_file(tmp_path / "config.json")


def test_folder_without_configuration(tmp_path):
    with pytest.raises(UsageError, match="config.json does not exist"):
        LlamaConfig.from_pretrained(tmp_path)


def test_copies_are_independent():
    config = LlamaConfig(rope_scaling=LLAMA3)
    other = copy.deepcopy(config)
    assert other == config and other is not config
    other.rope_scaling["factor"] = 99.0
    assert config.rope_scaling["factor"] == 8.0
    shared = [1, 2]
    LlamaConfig(eos_token_id=shared).eos_token_id.append(3)
    assert shared == [1, 2]


def test_configurations_do_not_import_paddle():
    code = (
        "import sys\n"
        "from paddlenlp.transformers import AutoConfig, LlamaConfig\n"
        "AutoConfig.from_pretrained('facebook/llama-7b')\n"
        "assert 'paddle' not in sys.modules and 'huggingface_hub' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
