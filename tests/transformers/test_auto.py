"""The Auto classes: how a family is found, and what is said when it is not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paddlenlp.transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, PretrainedConfig
from paddlenlp.transformers.auto import families
from paddlenlp.transformers.known_models import known_config, known_names
from paddlenlp.utils.errors import UsageError

TINY = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
}


def write(folder: Path, **values) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder


@pytest.mark.parametrize(
    "naming",
    [
        {"model_type": "llama"},
        {"architectures": ["LlamaForCausalLM"]},
        {"architectures": ["LLaMAForCausalLM"]},
        {"architectures": ["LlamaForCausalLMPipe"]},
        {"init_class": "LlamaForCausalLM"},
        {"model_type": "llama", "architectures": ["BaichuanForCausalLM"]},
    ],
)
def test_the_family_is_found(tmp_path, naming):
    config = AutoConfig.from_pretrained(write(tmp_path, **naming, **TINY))
    assert type(config) is LlamaConfig
    assert config.hidden_size == 32 and config.num_key_value_heads == 2


def test_overrides_win(tmp_path):
    assert AutoConfig.from_pretrained(write(tmp_path, model_type="llama"), vocab_size=7).vocab_size == 7


def test_unknown_model_type_names_the_known_and_the_nearest(tmp_path):
    with pytest.raises(UsageError) as caught:
        AutoConfig.from_pretrained(write(tmp_path, model_type="lama"))
    text = str(caught.value)
    assert "model_type 'lama' is not known; did you mean 'llama'?" in text
    assert str(tmp_path / "config.json") in text


def test_unknown_architecture_names_the_known(tmp_path):
    with pytest.raises(UsageError, match="'LamaForCausalLM' is not known; did you mean 'LlamaForCausalLM'"):
        AutoConfig.from_pretrained(write(tmp_path, architectures=["LamaForCausalLM"]))


def test_a_configuration_without_family(tmp_path):
    with pytest.raises(UsageError, match="neither a model_type nor architectures"):
        AutoConfig.from_pretrained(write(tmp_path, vocab_size=5))


def test_register(tmp_path, monkeypatch):
    class MineConfig(PretrainedConfig):
        model_type = "mine"

    monkeypatch.setattr(families, "REGISTERED", families.REGISTERED)
    before = dict(families.REGISTERED)
    try:
        AutoConfig.register("mine", MineConfig)
        assert type(AutoConfig.from_pretrained(write(tmp_path, model_type="mine"))) is MineConfig
        with pytest.raises(ValueError, match="taken"):
            AutoConfig.register("mine", MineConfig)
        AutoConfig.register("mine", MineConfig, exist_ok=True)
        with pytest.raises(ValueError, match="is 'mine', not 'yours'"):
            AutoConfig.register("yours", MineConfig)
    finally:
        families.REGISTERED.clear()
        families.REGISTERED.update(before)


def test_the_longest_prefix_wins(monkeypatch):
    rows = [families.Family("qwen", "qwen", "QWen"), families.Family("qwen2", "qwen2", "Qwen2")]
    rows.append(families.Family("qwen2_moe", "qwen2_moe", "Qwen2Moe"))
    monkeypatch.setattr(families, "FAMILIES", rows)
    found = [families.family_of_architecture(f"{name}ForCausalLM", {}) for name in ("QWen", "Qwen2", "Qwen2Moe")]
    assert found == rows
    assert families.family_of_architecture("GPTForCausalLM", {}) is None


FIRST, SECOND = {"inner_hidden_size": 8, "position_encoding_2d": True}, {"padded_vocab_size": 64, "kv_channels": 8}
SIZES = {"hidden_size": 16, "num_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize("architecture", [["ChatGLMModel"], ["ChatGLMForConditionalGeneration"], None])
@pytest.mark.parametrize(("values", "prefix"), [(FIRST, "ChatGLM"), (SECOND, "ChatGLMv2"), ({}, "ChatGLM")])
def test_families_of_one_model_type_are_told_apart_by_their_values(values, prefix, architecture):
    config = AutoConfig.from_dict({"model_type": "chatglm", "architectures": architecture, **SIZES, **values})
    assert type(config).__name__ == f"{prefix}Config"
    assert AutoModelForCausalLM.model_class(config).__name__ == f"{prefix}ForCausalLM"


@pytest.mark.parametrize("values", [{"model_type": "chatglm_v2"}, {"architectures": ["ChatGLMv2ForCausalLM"]}])
def test_paddlenlp_has_a_type_of_its_own_for_the_second(values):
    config = AutoConfig.from_dict({**values, **SIZES})
    assert type(config).__name__ == "ChatGLMv2Config" and config.num_key_value_heads == 1
    assert AutoModelForCausalLM.model_class(config).__name__ == "ChatGLMv2ForCausalLM"


@pytest.mark.parametrize("name", known_names())
def test_every_built_in_name_has_a_valid_configuration(name):
    config = AutoConfig.from_pretrained(name)
    assert type(config).model_type == known_config(name)["model_type"]
    assert type(config).from_pretrained(name) == config


# Parameters of each model in billions: embedding, head unless tied, attention, gated MLP and norms.
@pytest.mark.parametrize(
    ("name", "billions"),
    [
        ("facebook/llama-7b", 6.738),
        ("facebook/llama-13b", 13.016),
        ("facebook/llama-30b", 32.529),
        ("facebook/llama-65b", 65.286),
        ("meta-llama/Llama-2-70b", 68.977),
        ("meta-llama/Meta-Llama-3-8B", 8.030),
        ("meta-llama/Meta-Llama-3.1-70B", 70.554),
        ("meta-llama/Meta-Llama-3.1-405B", 405.853),
        ("meta-llama/Llama-3.2-1B", 1.236),
        ("meta-llama/Llama-3.2-3B", 3.213),
        ("deepseek-ai/DeepSeek-R1-Distill-Llama-8B", 8.030),
    ],
)
def test_built_in_shapes_give_the_published_sizes(name, billions):
    c = AutoConfig.from_pretrained(name)
    attention = c.hidden_size * c.head_dim * 2 * (c.num_attention_heads + c.num_key_value_heads)
    layer = attention + 3 * c.hidden_size * c.intermediate_size + 2 * c.hidden_size
    tables = (1 if c.tie_word_embeddings else 2) * c.vocab_size * c.hidden_size
    total = c.num_hidden_layers * layer + tables + c.hidden_size
    assert round(total / 1e9, 3) == billions


def test_a_folder_comes_before_a_built_in_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "facebook" / "llama-7b"
    folder.mkdir(parents=True)
    write(folder, model_type="llama", **TINY)
    assert AutoConfig.from_pretrained("facebook/llama-7b").hidden_size == 32


def test_every_public_name_is_there():
    import paddlenlp.transformers as rooms

    for package in (rooms, rooms.auto, rooms.llama):
        for name in package.__all__:
            assert getattr(package, name).__name__ == name


def test_auto_classes_are_not_instantiated():
    from paddlenlp.transformers import AutoModelForCausalLM

    for auto in (AutoConfig, AutoModelForCausalLM):
        with pytest.raises(TypeError, match="from_pretrained"):
            auto()


@pytest.mark.parametrize("auto", ["AutoModelForCausalLM", "AutoModelForCausalLMPipe"])
@pytest.mark.parametrize("architectures", [None, ["LlamaForCausalLM"], ["LlamaForCausalLMPipe"], ["LlamaModel"]])
def test_the_model_class_follows_the_configuration(auto, architectures):
    import paddlenlp.transformers as rooms

    config = LlamaConfig(**TINY, architectures=architectures)
    model = getattr(rooms, auto).from_config(config, dtype="bfloat16")
    assert type(model).__name__ == auto.replace("AutoModel", "Llama")
    assert {str(param.dtype) for param in model.parameters()} == {"paddle.bfloat16"}
    assert model.config.architectures == ["LlamaForCausalLM"] and model.config.dtype == "bfloat16"
    assert config.architectures == architectures and config.dtype is None


def test_models_of_an_unknown_family():
    from paddlenlp.transformers import AutoModelForCausalLM

    config = PretrainedConfig(architectures=["LamaForCausalLM"])
    with pytest.raises(UsageError, match="did you mean 'LlamaForCausalLM'"):
        AutoModelForCausalLM.from_config(config)
