"""llm/tools/train_tokenizer.py"""

from __future__ import annotations

import json

import pytest

from paddlenlp.transformers.auto.tokenizer import AutoTokenizer


def test_what_it_writes(tokenizer_dir):
    assert sorted(path.name for path in tokenizer_dir.iterdir()) == [
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    assert len(tokenizer) == tokenizer.vocab_size == 340
    assert [tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id] == [0, 1, 2]
    assert [tokenizer.bos_token, tokenizer.eos_token] == ["<s>", "</s>"]
    text = "Any text: 世界 🙂\n\t¹"
    assert tokenizer.decode(tokenizer("  " + text)["input_ids"]) == "  " + text
    assert len(tokenizer.encode_ids(" quick")) == 1


def test_same_text_same_tokenizer(train_tokenizer, corpus, tokenizer_dir, tmp_path):
    train_tokenizer(["--input_path", str(corpus), "--vocab_size", "340", "--output_dir", str(tmp_path)])
    for path in tokenizer_dir.iterdir():
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


def test_options(train_tokenizer, corpus, tmp_path):
    def trained(*options):
        assert train_tokenizer(["--input_path", str(corpus), "--output_dir", str(tmp_path), *options]) == 0
        return AutoTokenizer.from_pretrained(tmp_path)

    special = trained("--vocab_size", "300", "--special_tokens", "<|user|>", "<|end|>")
    assert special.convert_tokens_to_ids(["<|user|>", "<|end|>"]) == [3, 4]
    assert special.decode(special.encode_ids("a<|end|>"), skip_special_tokens=True) == "a"
    assert len(trained("--vocab_size", "5000", "--min_frequency", "100000")) == 259
    assert len(trained("--vocab_size", "5000", "--max_doc_num", "1")) < len(trained("--vocab_size", "5000"))
    with_key = trained("--vocab_size", "340", "--json_key", "content", "--max_doc_num", "600")
    assert len(with_key) < 340, "the short texts under the other key have less to merge"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--vocab_size", "100"], "vocab_size is 100; expected at least 259"),
        (["--input_path", "absent"], "absent: no such file"),
        (["--json_key", "absent"], "no documents with text"),
    ],
)
def test_errors(train_tokenizer, tmp_path, capsys, options, message):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "x"}))
    code = train_tokenizer(["--input_path", str(tmp_path), "--output_dir", str(tmp_path / "out"), *options])
    assert code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_nowhere_to_write(train_tokenizer, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("x")
    options = ["--vocab_size", "300", "--output_dir", str(tmp_path / "a.txt" / "out")]
    assert train_tokenizer(["--input_path", str(tmp_path), *options]) == 2
    assert "a.txt" in capsys.readouterr().err
