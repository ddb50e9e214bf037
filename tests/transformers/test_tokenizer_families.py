"""Each family's vocabulary files, made tiny here: ids as by the library itself, what belongs around a text, its end."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece

from paddlenlp.data import make_dataset
from paddlenlp.data.preprocess import DocumentEncoder, make_dataset_from_text
from paddlenlp.data.preprocess_text import TextOptions
from paddlenlp.transformers.auto.tokenizer import AutoTokenizer
from paddlenlp.transformers.tokenizer_backends.ranks import _BYTE_OF
from paddlenlp.transformers.tokenizer_training import train_byte_level_bpe

PROSE = [
    "The quick brown fox jumps over the lazy dog.",
    "学而时习之，不亦说乎？有朋自远方来，不亦乐乎？",
    "Philosophy of the sophist, don't read 1234 times.",
]
TEXTS = ["Hello fox", "philosophy of a sop, 不亦乐乎", "it's naïve 🙂", "the lazy\ndog\t1234", "a  b     c"]
ICE_SPECIAL = ["[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>"]
BLANKS = [f"<|blank_{length}|>" for length in range(2, 81)]
YUAN_TOKENS = ["<sep>", "<pad>", "<mask>", "<predict>", "<FIM_SUFFIX>", "<FIM_PREFIX>", "<FIM_MIDDLE>"]
LLAMA_CONFIG = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "tokenizer_class": "LlamaTokenizer"}


@pytest.fixture(scope="module")
def spm(tmp_path_factory):
    """spm(option=value ...) -> content of a trained SentencePiece model, made once for the same options."""
    made = {}
    folder = tmp_path_factory.mktemp("spm")
    (folder / "text.txt").write_text("\n".join(PROSE * 20), encoding="utf-8")

    def train(**options):
        key = json.dumps(options, sort_keys=True)
        if key not in made:
            usual = {"vocab_size": 360, "byte_fallback": True, "normalization_rule_name": "identity"}
            sentencepiece.SentencePieceTrainer.train(
                input=str(folder / "text.txt"),
                model_prefix=str(folder / "m"),
                model_type="bpe",
                remove_extra_whitespaces=False,
                minloglevel=2,
                **{**usual, **options},
            )
            made[key] = (folder / "m.model").read_bytes()
        return made[key]

    return train


@pytest.fixture(scope="module")
def bpe():
    return json.loads(train_byte_level_bpe(PROSE * 4, 300).to_str())["model"]


def rank_file(model):
    tokens = [*sorted((token for token in model["vocab"] if len(token) == 1), key=model["vocab"].get)]
    tokens += ["".join(pair) for pair in model["merges"]]
    as_bytes = (bytes(_BYTE_OF[character] for character in token) for token in tokens)
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(as_bytes))


def merge_files(model, first=(), last=(), names=("vocab.json", "merges.txt")):
    tokens = [*first, *(token for token in model["vocab"] if token[0] != "<" or len(token) == 1), *last]
    lines = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"]), ""]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    return dict(zip(names, (json.dumps(vocab).encode(), "\n".join(lines).encode())))


def write(folder, files, model_type=None, **config):
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if config:
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if model_type:
        (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    return folder


def gemma(spm):
    roles = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
    pieces = {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>"}
    return spm(add_dummy_prefix=False, user_defined_symbols=["\n\n", "▁▁"], **roles, **pieces)


def ice(spm):
    """As `ice_text.model` is before the tokens of the model are put to it."""
    return spm(vocab_size=110, byte_fallback=False, user_defined_symbols=["<n>"], pad_id=3)


def yuan(spm):
    return spm(vocab_size=370, user_defined_symbols=["<eod>"])


# name: (files, arguments of `write`, before a text, after it, eos)
CASES = {
    "llama": (lambda spm, bpe: {"tokenizer.model": spm()}, LLAMA_CONFIG, ["<s>"], [], "</s>"),
    "llama (PaddleNLP)": (lambda spm, bpe: {"sentencepiece.bpe.model": spm()}, LLAMA_CONFIG, ["<s>"], [], "</s>"),
    "mistral": (lambda spm, bpe: {"tokenizer.model": spm()}, {"model_type": "mistral"}, ["<s>"], [], "</s>"),
    "mixtral": (lambda spm, bpe: {"tokenizer.model": spm()}, {"model_type": "mixtral"}, ["<s>"], [], "</s>"),
    "baichuan": (
        lambda spm, bpe: {"tokenizer.model": spm()},
        {"model_type": "baichuan", **LLAMA_CONFIG, "tokenizer_class": "BaichuanTokenizer", "add_bos_token": False},
        [],
        [],
        "</s>",
    ),
    "baichuan (no configuration)": (
        lambda spm, bpe: {"tokenizer.model": spm()}, {"model_type": "baichuan"}, [], [], "</s>"
    ),
    "llama3": (
        lambda spm, bpe: {"tokenizer.model": rank_file(bpe)},
        {"model_type": "llama"},
        ["<|begin_of_text|>"],
        [],
        "<|end_of_text|>",
    ),
    "qwen": (lambda spm, bpe: {"qwen.tiktoken": rank_file(bpe)}, {"model_type": "qwen"}, [], [], "<|endoftext|>"),
    "qwen2": (lambda spm, bpe: merge_files(bpe), {"model_type": "qwen2"}, [], [], "<|endoftext|>"),
    "gpt": (
        lambda spm, bpe: merge_files(bpe, last=["<|endoftext|>"], names=("gpt-en-vocab.json", "gpt-en-merges.txt")),
        {"model_type": "gpt"},
        [],
        [],
        "<|endoftext|>",
    ),
    "gpt2": (
        lambda spm, bpe: merge_files(bpe, last=["<|endoftext|>"], names=("encoder.json", "vocab.bpe")),
        {"tokenizer_class": "GPT2Tokenizer"},
        [],
        [],
        "<|endoftext|>",
    ),
    "opt": (
        lambda spm, bpe: merge_files(bpe, first=["<s>", "<pad>", "</s>", "<unk>"]),
        {"model_type": "opt", "tokenizer_class": "GPT2Tokenizer"},
        ["</s>"],
        [],
        "</s>",
    ),
    "bloom": (
        lambda spm, bpe: merge_files(bpe, first=["<unk>", "<s>", "</s>", "<pad>"]),
        {"tokenizer_class": "BloomTokenizerFast"},
        [],
        [],
        "</s>",
    ),
    "gemma": (lambda spm, bpe: {"tokenizer.model": gemma(spm)}, {"model_type": "gemma"}, ["<bos>"], [], "<eos>"),
    "yuan": (
        lambda spm, bpe: {"tokenizer.model": yuan(spm)},
        {"model_type": "yuan", **LLAMA_CONFIG, "add_bos_token": False},
        [],
        [],
        "<eod>",
    ),
    "chatglm": (
        lambda spm, bpe: {"ice_text.model": ice(spm)},
        {"model_type": "chatglm", "tokenizer_class": "ChatGLMTokenizer", "num_image_tokens": 0},
        [],
        ["[gMASK]", "<sop>"],
        "<eop>",
    ),
    "glm_130b": (
        lambda spm, bpe: {"ice_text.model": ice(spm)}, {"model_type": "glm_130b"}, [], ["[gMASK]", "<sop>"], "<eop>"
    ),
    "chatglm2": (
        lambda spm, bpe: {"tokenizer.model": spm()},
        {"model_type": "chatglm", "tokenizer_class": "ChatGLMTokenizer"},
        ["[gMASK]", "sop"],
        [],
        "</s>",
    ),
    "chatglm3 (PaddleNLP)": (
        lambda spm, bpe: {"tokenizer.model": spm()},
        {"tokenizer_class": "ChatGLMv2Tokenizer"},
        ["[gMASK]", "sop"],
        [],
        "</s>",
    ),
}  # fmt: skip


@pytest.fixture(params=list(CASES))
def case(request, spm, bpe, tmp_path):
    files, arguments, before, after, eos = CASES[request.param]
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    return AutoTokenizer.from_pretrained(write(folder, files(spm, bpe), **arguments)), before, after, eos


def test_what_belongs_around_a_text(case):
    tokenizer, before, after, eos = case
    assert tokenizer.eos_token == eos and tokenizer.eos_token_id is not None
    first, last = tokenizer.convert_tokens_to_ids(before), tokenizer.convert_tokens_to_ids(after)
    assert None not in first + last
    for text in TEXTS:
        ids = tokenizer.encode_ids(text)
        assert tokenizer.encode(text) == [*first, *ids, *last] == tokenizer(text)["input_ids"]
        assert tokenizer.encode(text, add_special_tokens=False) == ids
        assert tokenizer.decode(ids) == text
        assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text
        assert max(ids) < len(tokenizer)


def test_copy_needs_no_configuration_of_the_model(case, tmp_path):
    tokenizer = case[0]
    tokenizer.save_pretrained(tmp_path / "copy")
    assert not (tmp_path / "copy" / "config.json").exists()
    again = AutoTokenizer.from_pretrained(tmp_path / "copy")
    assert again(TEXTS) == tokenizer(TEXTS) and len(again) == len(tokenizer)
    assert again.special_tokens_map == tokenizer.special_tokens_map
    assert again.fingerprint() == tokenizer.fingerprint()


def test_end_of_documents(case, tmp_path):
    """create_pretraining_data.py --append_eos: the family's end after each document, and nothing before it."""
    tokenizer = case[0]
    lines = [json.dumps({"text": text}) for text in TEXTS]
    (tmp_path / "text.jsonl").write_text("\n".join(lines), encoding="utf-8")
    encoder = DocumentEncoder(tokenizer, TextOptions(), append_eos=True)
    make_dataset_from_text([str(tmp_path / "text.jsonl")], str(tmp_path / "data"), encoder)
    data = make_dataset(str(tmp_path / "data"), "mmap", skip_warmup=True)
    found = [data[index].tolist() for index in range(len(data))]
    assert found == [[*tokenizer.encode_ids(text), tokenizer.eos_token_id] for text in TEXTS]


def test_pretraining_data_of_chatglm(spm, tmp_path):
    write(tmp_path, {"ice_text.model": ice(spm)}, "chatglm")
    (tmp_path / "text.jsonl").write_text(json.dumps({"text": "fox [gMASK]<sop> dog"}), encoding="utf-8")
    script = Path(__file__).resolve().parents[2] / "llm/tools/create_pretraining_data.py"
    command = ["--model_name_or_path", tmp_path, "--input_path", tmp_path / "text.jsonl", "--append_eos"]
    done = subprocess.run(
        [sys.executable, script, *map(str, command), "--output_prefix", str(tmp_path / "data")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    ids = make_dataset(str(tmp_path / "data"), "mmap", skip_warmup=True)[0].tolist()
    assert [index - 110 for index in ids if index >= 110] == [1, 4, 5], "[gMASK], <sop>, and <eop> at the end"


@pytest.mark.parametrize("name", ["llama", "mistral", "baichuan", "gemma", "yuan", "chatglm2"])
def test_ids_are_those_of_sentencepiece(name, spm, bpe, tmp_path):
    files, arguments, *_ = CASES[name]
    tokenizer = AutoTokenizer.from_pretrained(write(tmp_path, files(spm, bpe), **arguments))
    library = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "tokenizer.model"))
    assert tokenizer.encode_batch(TEXTS) == library.encode(TEXTS)


def test_words_that_are_tokens_of_chatglm2_stay_words(spm, tmp_path):
    """Its tokens for the beginning and the end of a piece are "sop" and "eop"; a text has them in "philosophy"."""
    added = {"361": {"content": "[gMASK]"}, "363": {"content": "sop"}}
    write(tmp_path, {"tokenizer.model": spm()}, None, tokenizer_class="ChatGLMTokenizer", added_tokens_decoder=added)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    library = sentencepiece.SentencePieceProcessor(model_proto=spm())
    assert tokenizer.encode_ids("philosophy") == library.encode("philosophy")
    assert tokenizer.encode("philosophy")[:2] == [361, 363]
    assert library.id_to_piece(library.piece_to_id("sop")) == "sop", "this model even has a piece like it"
    special = ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>"]
    assert tokenizer.convert_tokens_to_ids([*special, "<|observation|>"]) == list(range(360, 369))
    assert tokenizer.encode_ids("fox<|user|>fox").count(366) == 1 and len(tokenizer) == 369
    assert (tokenizer.bos_token, tokenizer.pad_token_id) == ("<s>", 0)


@pytest.mark.parametrize(("model_type", "start"), [("chatglm", 0), ("glm_130b", 20000)])
def test_pieces_of_chatglm(model_type, start, spm, tmp_path):
    """Released ids (ChatGLM-6B: 130000 pieces, then [MASK] 130000, <sop> 130004, <|tab|> 130008, two blanks 130009,
    bytes from 130088) follow the file's pieces in this order; GLM-130B has 20000 ids for pictures before them."""
    library = sentencepiece.SentencePieceProcessor(model_proto=ice(spm))
    size = library.get_piece_size()
    tokenizer = AutoTokenizer.from_pretrained(write(tmp_path, {"ice_text.model": ice(spm)}, model_type))
    assert (size, tokenizer.vocab_size, len(tokenizer)) == (110, start + size + 344, start + size + 344)
    places = [*ICE_SPECIAL, "<|tab|>", *BLANKS, *(f"<0x{byte:02X}>" for byte in range(256))]
    assert tokenizer.convert_tokens_to_ids(places) == list(range(start + size, len(tokenizer)))
    assert tokenizer.convert_ids_to_tokens([start - 1, start + 5, len(tokenizer)]) == [
        None,
        library.id_to_piece(5),
        None,
    ]
    roles = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.mask_token_id]
    assert roles == [start + size + 4, start + size + 5, start + 3, start + size]
    known = "the lazy dog"
    assert tokenizer.encode_ids(known) == [start + number for number in library.encode(known)]
    ids = tokenizer.encode_ids("the\n\tdog    fox🙂")
    base = start + size
    assert [base + 8, base + 8 + 3] == [index for index in ids if base <= index < base + 88], "a tab, four blanks"
    assert ids[-4:] == [base + 88 + byte for byte in "🙂".encode()] and ids.count(start + library["<n>"]) == 1
    long = "fox" + " " * 83 + "dog[gMASK]<sop>"
    assert tokenizer.decode(tokenizer.encode_ids(long)) == long
    assert tokenizer.tokenize(long)[-2:] == ["[gMASK]", "<sop>"] and "<|blank_80|>" in tokenizer.tokenize(long)


def test_chatglm_file_that_has_the_pieces(spm, tmp_path):
    """Later releases have them in the file; nothing is appended then."""
    content = spm(vocab_size=460, control_symbols=ICE_SPECIAL, user_defined_symbols=["<n>", "<|tab|>", *BLANKS])
    tokenizer = AutoTokenizer.from_pretrained(write(tmp_path, {"ice_text.model": content}, "chatglm"))
    library = sentencepiece.SentencePieceProcessor(model_proto=content)
    assert len(tokenizer) == tokenizer.vocab_size == 460
    assert tokenizer.encode("the fox") == [*library.encode("the fox"), library["[gMASK]"], library["<sop>"]]
    text = "fox\n\n\tdog   fox"
    assert tokenizer.encode_ids(text) == library.encode("fox<n><n><|tab|>dog<|blank_3|>fox")
    assert tokenizer.decode(tokenizer.encode_ids(text)) == text


def test_tokens_that_follow_the_vocabulary(spm, bpe, tmp_path):
    """Qwen2's vocab.json has no special tokens, nor need Yuan's model have those that its code adds."""
    qwen, other = tmp_path / "qwen", tmp_path / "yuan"
    qwen.mkdir(), other.mkdir()
    tokenizer = AutoTokenizer.from_pretrained(write(qwen, merge_files(bpe), "qwen2"))
    size = tokenizer.vocab_size
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.convert_tokens_to_ids(tokens) == [size, size + 1, size + 2] and len(tokenizer) == size + 3
    assert tokenizer.encode_ids("fox<|im_end|>")[-1] == size + 2
    write(qwen, {}, added_tokens_decoder={str(size): {"content": "<|other|>"}})
    tokenizer = AutoTokenizer.from_pretrained(qwen)
    assert tokenizer.convert_tokens_to_ids(["<|other|>", *tokens]) == list(range(size, size + 4))
    tokenizer = AutoTokenizer.from_pretrained(write(other, {"tokenizer.model": yuan(spm)}, "yuan"))
    assert tokenizer.convert_tokens_to_ids(YUAN_TOKENS) == list(range(370, 377)) and len(tokenizer) == 385
    assert tokenizer.sep_token_id == 370 and tokenizer.encode_ids("fox<sep>fox").count(370) == 1


def test_end_of_yuan_can_be_chosen(spm, tmp_path):
    """Published code for it passes eos_token="<eod>", over LLaMA's end of a text that a file may name."""
    write(tmp_path, {"tokenizer.model": yuan(spm)}, "yuan", **LLAMA_CONFIG)
    assert AutoTokenizer.from_pretrained(tmp_path).eos_token == "<eod>"
    assert AutoTokenizer.from_pretrained(tmp_path, eos_token="</s>").eos_token == "</s>"


def test_words_of_bloom(bpe, tmp_path):
    """Its words take digits and an apostrophe with them, and end at punctuation."""
    files = merge_files(bpe, first=["<unk>", "<s>", "</s>", "<pad>"])
    vocab, merges = json.loads(files["vocab.json"]), files["merges.txt"].decode()
    vocab.update((token, len(vocab) + place) for place, token in enumerate(("'t", "n't", "n2", "n,")))
    lines = merges + "' t\nn 't\nn 2\nn ,\n"
    files = {"vocab.json": json.dumps(vocab).encode(), "merges.txt": lines.encode()}
    bloom = AutoTokenizer.from_pretrained(write(tmp_path, files, "bloom"))
    assert [bloom.tokenize(text) for text in ("n't", "n2", "n,")] == [["n't"], ["n2"], ["n", ","]]
    gpt = AutoTokenizer.from_pretrained(write(tmp_path, files, "gpt"))
    assert gpt.tokenize("n't")[0] == "n" and gpt.tokenize("n2") == ["n", "2"]


def test_windows_line_ends_and_proper_names_first(bpe, tmp_path):
    files = merge_files(bpe, last=["<|endoftext|>"])
    expected = AutoTokenizer.from_pretrained(write(tmp_path, files, "gpt")).encode_batch(TEXTS)
    damaged = {"encoder.json": b"{}", "merges.txt": files["merges.txt"].replace(b"\n", b"\r\n")}
    assert AutoTokenizer.from_pretrained(write(tmp_path, damaged, "gpt")).encode_batch(TEXTS) == expected
