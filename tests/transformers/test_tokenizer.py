"""Tokenizers from every kind of vocabulary file, made tiny here, and what their small JSON files declare."""

from __future__ import annotations

import base64
import json
import pickle

import pytest

from paddlenlp.transformers.auto.tokenizer import AutoTokenizer
from paddlenlp.transformers.tokenizer_backends import ranks as ranks_backend
from paddlenlp.transformers.tokenizer_backends.families import LLAMA3_PATTERN, QWEN_PATTERN
from paddlenlp.transformers.tokenizer_training import train_byte_level_bpe
from paddlenlp.transformers.tokenizer_utils import PretrainedTokenizer
from paddlenlp.utils.errors import UsageError

PROSE = [
    "The quick brown fox jumps over the lazy dog.",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？",
    "Dogs and foxes, 1234 times.",
]
TEXTS = ["Hello world", "  two  spaces\n\n\tx = 12345", "你好，世界！", "naïve 🙂", "", "the lazy\ndog's fox"]
BPE_KINDS = ["json", "merges", "llama3", "qwen"]
KINDS = [*BPE_KINDS, "spm"]


@pytest.fixture(scope="module")
def bpe():
    """The state of a trained byte-level BPE: (tokenizers.Tokenizer, its JSON)."""
    trained = train_byte_level_bpe(PROSE * 4, 300)
    return trained, json.loads(trained.to_str())


@pytest.fixture(scope="module")
def spm_model(tmp_path_factory):
    import sentencepiece

    folder = tmp_path_factory.mktemp("spm")
    (folder / "text.txt").write_text("\n".join(PROSE * 20), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text.txt"),
        model_prefix=str(folder / "m"),
        vocab_size=360,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return (folder / "m.model").read_bytes()


def rank_lines(state):
    """The trained vocabulary as a tiktoken file: bytes first, then merges, by rank."""
    vocab = {token: i for token, i in state["model"]["vocab"].items() if len(token) == 1}
    merged = ["".join(pair) for pair in state["model"]["merges"]]
    tokens = [*sorted(vocab, key=vocab.get), *merged]
    as_bytes = [bytes(ranks_backend._BYTE_OF[character] for character in token) for token in tokens]
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(as_bytes))


@pytest.fixture
def folder(tmp_path, bpe, spm_model):
    """make(kind, **tokenizer_config) -> a folder with a tokenizer of that kind."""

    def make(kind, **config):
        trained, state = bpe
        if kind == "json":
            trained.save(str(tmp_path / "tokenizer.json"))
            config = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "<pad>", **config}
        elif kind == "merges":
            vocab = state["model"]["vocab"]
            (tmp_path / "vocab.json").write_text(json.dumps({**vocab, "<|endoftext|>": len(vocab)}))
            merges = [" ".join(pair) for pair in state["model"]["merges"]]
            (tmp_path / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")
            config = {"tokenizer_class": "GPTTokenizer", **config}
        elif kind == "spm":
            (tmp_path / "tokenizer.model").write_bytes(spm_model)
            config = {"tokenizer_class": "LlamaTokenizer", **config}
        else:
            name = "qwen.tiktoken" if kind == "qwen" else "tokenizer.model"
            (tmp_path / name).write_bytes(rank_lines(state))
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        return tmp_path

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_round_trips_and_batches(folder, kind):
    tokenizer = AutoTokenizer.from_pretrained(folder(kind))
    ids = [tokenizer.encode_ids(text) for text in TEXTS]
    assert tokenizer.encode_batch(TEXTS) == ids
    assert [tokenizer.decode(found) for found in ids] == TEXTS
    for text, found in zip(TEXTS, ids):
        tokens = tokenizer.tokenize(text)
        assert len(tokens) == len(found) and tokenizer.convert_tokens_to_ids(tokens) == found
        assert tokenizer.convert_ids_to_tokens(found) == tokens
        assert all(0 <= index < len(tokenizer) for index in found)
    assert len(tokenizer.encode_ids("the lazy dog")) < len("the lazy dog"), "merges are not used"


@pytest.mark.parametrize("kind", KINDS)
def test_saved_copy_is_equal(folder, kind, tmp_path_factory):
    source = folder(kind, chat_template="{{ messages }}", model_max_length=77, padding_side="right")
    tokenizer = AutoTokenizer.from_pretrained(source)
    copy = tmp_path_factory.mktemp("copy") / "made"
    tokenizer.save_pretrained(copy)
    again = AutoTokenizer.from_pretrained(copy)
    assert again.encode_batch(TEXTS) == tokenizer.encode_batch(TEXTS)
    assert again("fox") == tokenizer("fox") and len(again) == len(tokenizer)
    assert again.special_tokens_map == tokenizer.special_tokens_map and tokenizer.eos_token_id is not None
    assert (again.chat_template, again.model_max_length, again.padding_side) == ("{{ messages }}", 77, "right")
    assert again.fingerprint() == tokenizer.fingerprint()
    for name in ("tokenizer.json", "tokenizer.model", "qwen.tiktoken", "vocab.json", "merges.txt"):
        if (source / name).exists():
            assert (copy / name).read_bytes() == (source / name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_goes_to_other_processes(folder, kind):
    tokenizer = AutoTokenizer.from_pretrained(folder(kind), add_eos_token=True)
    again = pickle.loads(pickle.dumps(tokenizer))
    assert again("the fox") == tokenizer("the fox") and again.fingerprint() == tokenizer.fingerprint()


@pytest.mark.parametrize("kind", KINDS)
def test_special_token_in_the_text(folder, kind):
    path = folder(kind)
    tokenizer = AutoTokenizer.from_pretrained(path)
    end = tokenizer.eos_token
    ids = tokenizer.encode_ids(f"fox{end}dog")
    assert ids.count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(ids) == f"fox{end}dog"
    rest = "fox dog" if kind == "spm" else "foxdog"  # SentencePiece's "legacy" way begins a word after the token
    assert tokenizer.decode(ids, skip_special_tokens=True) == rest
    plain = AutoTokenizer.from_pretrained(path, split_special_tokens=True)
    assert plain.eos_token_id not in plain.encode_ids(f"fox{end}dog")
    assert plain.decode(plain.encode_ids(f"fox{end}dog")) == f"fox{end}dog"


def test_roles_come_from_both_files(folder):
    path = folder("json", eos_token=None, unk_token=None)
    (path / "special_tokens_map.json").write_text(json.dumps({"eos_token": "</s>", "unk_token": {"content": "<pad>"}}))
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert (tokenizer.bos_token, tokenizer.bos_token_id) == ("<s>", 1)
    assert tokenizer.pad_token_id == 0
    assert tokenizer.eos_token is None and tokenizer.eos_token_id is None, "tokenizer_config.json comes first"
    assert AutoTokenizer.from_pretrained(path, eos_token="</s>").eos_token_id == 2
    (path / "tokenizer_config.json").write_text("{}")
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert (tokenizer.eos_token_id, tokenizer.unk_token_id) == (2, 0)
    assert tokenizer.convert_tokens_to_ids("no such token") == 0


@pytest.mark.parametrize(("bos", "eos"), [(True, False), (False, True), (True, True), (False, False)])
def test_added_ends(folder, bos, eos):
    tokenizer = AutoTokenizer.from_pretrained(folder("json", add_bos_token=bos, add_eos_token=eos))
    plain = tokenizer.encode_ids("fox")
    expected = [*[tokenizer.bos_token_id] * bos, *plain, *[tokenizer.eos_token_id] * eos]
    assert tokenizer("fox")["input_ids"] == expected == tokenizer.encode("fox")
    assert tokenizer(["fox", "dog"])["input_ids"] == [expected, tokenizer.encode("dog")]
    assert tokenizer("fox", add_special_tokens=False)["input_ids"] == plain == tokenizer.encode("fox", False)


def test_ends_by_default(folder, bpe):
    from tokenizers import processors

    llama = AutoTokenizer.from_pretrained(folder("spm"))
    assert llama.encode("fox")[0] == llama.bos_token_id == 1, "LlamaTokenizer begins a text"
    path = folder("json")
    assert AutoTokenizer.from_pretrained(path).encode("fox") == AutoTokenizer.from_pretrained(path).encode_ids("fox")
    trained, _ = bpe
    trained.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
    )
    try:
        trained.save(str(path / "tokenizer.json"))
    finally:
        trained.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.encode("fox") == [1, *tokenizer.encode_ids("fox"), 2]


@pytest.mark.parametrize("kind", KINDS)
def test_added_tokens(folder, kind, tmp_path_factory):
    size = len(AutoTokenizer.from_pretrained(folder(kind)))
    plain = AutoTokenizer.from_pretrained(folder(kind)).fingerprint()
    decoder = {
        str(size): {"content": "<|start|>", "special": True},
        str(size + 1): {"content": "fox_word", "special": False},
    }
    tokenizer = AutoTokenizer.from_pretrained(folder(kind, added_tokens_decoder=decoder))
    assert len(tokenizer) == size + 2 and tokenizer.vocab_size <= size
    ids = tokenizer.encode_ids("a <|start|>fox_word")
    assert ids[-2:] == [size, size + 1]
    assert tokenizer.decode(ids) == "a <|start|>fox_word"
    assert tokenizer.decode(ids, skip_special_tokens=True) == "a fox_word"
    assert tokenizer.fingerprint() != plain, "added tokens change ids, so they change the fingerprint"
    copy = tmp_path_factory.mktemp("copy")
    tokenizer.save_pretrained(copy)
    assert json.loads((copy / "added_tokens.json").read_text())["<|start|>"] == size
    assert AutoTokenizer.from_pretrained(copy).encode_ids("a <|start|>fox_word") == ids
    config = json.loads((copy / "tokenizer_config.json").read_text())
    del config["added_tokens_decoder"]
    (copy / "tokenizer_config.json").write_text(json.dumps(config))
    assert AutoTokenizer.from_pretrained(copy).encode_ids("a <|start|>") == ids[:-1], "added_tokens.json is read"


def test_added_token_under_an_impossible_id(folder):
    path = folder("json", added_tokens_decoder={"4000": {"content": "<|start|>"}})
    with pytest.raises(UsageError, match="claims id 4000"):
        AutoTokenizer.from_pretrained(path)


def test_tokenizer_json_is_preferred(folder):
    path = folder("spm")
    folder("json")
    tokenizer = AutoTokenizer.from_pretrained(path)
    assert tokenizer.vocab_size == 300
    assert tokenizer.fingerprint() == AutoTokenizer.from_pretrained(path).fingerprint()


def test_patterns_of_families(folder):
    """LLaMA 3 takes up to three digits together, Qwen one: the ids differ, the text does not."""
    assert r"\p{N}{1,3}" in LLAMA3_PATTERN and "{1,3}" not in QWEN_PATTERN
    merged = AutoTokenizer.from_pretrained(folder("llama3"))
    assert "1234" in PROSE[2] and any(len(token) > 1 and token.isdigit() for token in merged.tokenize("123"))
    single = AutoTokenizer.from_pretrained(folder("qwen"))
    assert single.tokenize("123") == ["1", "2", "3"]
    assert len(merged) - merged.vocab_size == 256 and len(single) - single.vocab_size == 208


def test_unicode_form_of_qwen(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder("qwen"))
    assert tokenizer.encode_ids("e\u0301") == tokenizer.encode_ids("\u00e9")


def test_long_text_of_a_tiktoken_file(folder, monkeypatch):
    text = "The quick brown fox, 'jumps' over.  The   lazy dog\n\n x" * 40
    tokenizer = AutoTokenizer.from_pretrained(folder("llama3"))
    whole = tokenizer.encode_ids(text)
    monkeypatch.setattr(ranks_backend, "_LONGEST", 50)
    assert tokenizer.encode_ids(text) == whole
    assert tokenizer.decode(tokenizer.encode_ids("x" * 173)) == "x" * 173


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_encoded_apart(folder, kind):
    tokenizer = AutoTokenizer.from_pretrained(folder(kind))
    ids = tokenizer.encode_words(["不亦", "说乎", "fox"])
    assert tokenizer.decode(ids) == "不亦说乎fox"
    assert ids[: len(tokenizer.encode_ids("不亦"))] == tokenizer.encode_ids("不亦")
    assert tokenizer.encode_words([]) == []


def test_words_of_a_pipeline_with_prefix(tmp_path):
    """LLaMA's own tokenizer.json marks the beginning of each text; words in the middle of one get no mark."""
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocab = {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4, "ab": 5, "▁b": 6}
    made = Tokenizer(models.BPE(vocab, [("▁", "a"), ("a", "b"), ("▁", "b")], unk_token="<unk>"))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    made.save(str(tmp_path / "tokenizer.json"))
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    assert tokenizer.encode_ids("a b") == [4, 6]
    assert tokenizer.encode_words(["a", "b", "ab"]) == [4, 3, 5]


@pytest.mark.parametrize(("legacy", "expected"), [(True, "▁fox"), (False, "f")])
def test_legacy_of_sentencepiece(folder, legacy, expected):
    tokens = AutoTokenizer.from_pretrained(folder("spm", legacy=legacy)).tokenize("dog</s>fox")
    after = tokens[tokens.index("</s>") + 1]
    assert after.startswith(expected[0])


def test_ids_no_token_has(folder):
    for kind in ("json", "spm", "llama3"):
        tokenizer = AutoTokenizer.from_pretrained(folder(kind))
        ids = tokenizer.encode_ids("fox")
        assert tokenizer.decode([*ids, len(tokenizer), 10**6, -1]) == "fox"
        assert tokenizer.decode(ids[0]) != "" and tokenizer.batch_decode([ids, ids]) == ["fox", "fox"]


def test_fingerprint_tells_vocabularies_apart(folder):
    path = folder("json")
    before = AutoTokenizer.from_pretrained(path).fingerprint()
    state = json.loads((path / "tokenizer.json").read_text())
    state["model"]["merges"].pop()
    (path / "tokenizer.json").write_text(json.dumps(state))
    after = AutoTokenizer.from_pretrained(path).fingerprint()
    assert before != after and len(after) == 64


def test_nothing_there(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(UsageError) as error:
        AutoTokenizer.from_pretrained(tmp_path)
    assert "merges.txt" in str(error.value) and "tokenizer.json" in str(error.value)
    assert "Found of these: vocab.json" in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files(folder, kind):
    path = folder(kind)
    name = next(n for n in ("tokenizer.json", "vocab.json", "qwen.tiktoken", "tokenizer.model") if (path / n).exists())
    content = (path / name).read_bytes()
    (path / name).write_bytes(content[: len(content) // 2] + b"!!")
    with pytest.raises(UsageError, match=name):
        AutoTokenizer.from_pretrained(path)


def test_damaged_configuration(folder):
    path = folder("json")
    (path / "tokenizer_config.json").write_text("{")
    with pytest.raises(UsageError, match="tokenizer_config.json: not JSON"):
        AutoTokenizer.from_pretrained(path)
    (path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(UsageError, match="expected a JSON object"):
        AutoTokenizer.from_pretrained(path)


def test_unknown_option(folder):
    with pytest.raises(TypeError, match="add_boss_token"):
        AutoTokenizer.from_pretrained(folder("json"), add_boss_token=True)


def test_declared_token_that_is_not_there(folder, capsys):
    tokenizer = AutoTokenizer.from_pretrained(folder("json", mask_token="<mask>"))
    assert tokenizer.mask_token is None and len(tokenizer) == 300
    assert "'<mask>' is not in the vocabulary" in capsys.readouterr().err


def test_registered_class(folder, monkeypatch):
    from paddlenlp.transformers.auto import tokenizer as auto

    class Own(PretrainedTokenizer):
        """A family's own tokenizer."""

    monkeypatch.setattr(auto, "_CLASSES", {})
    AutoTokenizer.register("OwnTokenizer", Own)
    assert type(AutoTokenizer.from_pretrained(folder("json", tokenizer_class="OwnTokenizer"))) is Own
    assert type(AutoTokenizer.from_pretrained(folder("json"), use_fast=True)) is PretrainedTokenizer


def test_name_goes_to_the_hub(folder, monkeypatch):
    from paddlenlp.transformers import hub

    path = folder("json")
    asked = []
    monkeypatch.setattr(hub, "resolve_folder", lambda name, patterns: asked.append((name, patterns)) or path)
    assert AutoTokenizer.from_pretrained("organisation/model").encode_ids("fox")
    assert asked[0][0] == "organisation/model" and "tokenizer.json" in asked[0][1]
