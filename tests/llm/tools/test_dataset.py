"""llm/tools/dataset.py, merge.py, trans_to_json.py and words_segmentation.py as commands."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from paddlenlp.data import MMapIndexedDatasetBuilder, make_dataset, read_sidecar
from tests.llm.tools.conftest import load


@pytest.fixture(scope="module")
def dataset():
    return load("dataset").main


@pytest.fixture
def prefix(tmp_path):
    builder = MMapIndexedDatasetBuilder(str(tmp_path / "text"), "uint16")
    for size in (5, 3, 7, 2, 9):
        builder.add_item(np.arange(size))
        builder.end_document()
    builder.finalize(vocab_size=9)
    return str(tmp_path / "text")


def test_inspect(dataset, prefix, create_pretraining_data, corpus, tokenizer_dir, texts, tmp_path, capsys):
    made = str(tmp_path / "made")
    words = ["--input_path", corpus, "--output_prefix", made, "--workers", "1", "--model_name_or_path", tokenizer_dir]
    assert create_pretraining_data([str(word) for word in words]) == 0
    capsys.readouterr()
    assert dataset(["inspect", made, "--tokenizer_name_or_path", str(tokenizer_dir), "--documents", "3"]) == 0
    out = capsys.readouterr().out
    assert "documents  700" in out and "█" in out and texts[3][:40] in out
    assert dataset(["inspect", prefix, "--samples", "2", "--max_tokens", "4", "--width", "8"]) == 0
    out = capsys.readouterr().out
    assert out.endswith("first 4)\n0 1 2 3\n--- document 4 (9 tokens, first 4)\n0 1 2 3\n") and "█" * 9 not in out
    assert dataset(["inspect", prefix, "--max_tokens", "0"]) == 2 and dataset(["inspect", prefix + "x"]) == 2
    assert "--max_tokens is 0" in capsys.readouterr().err


def test_histogram(dataset, prefix, tmp_path, capsys):
    """The bars are as long as the counts say: of 5 documents 2 have 2 to 3 tokens, 2 have 4 to 7, 1 has 8 to 15."""
    from PIL import Image

    picture = tmp_path / "lengths.png"
    assert dataset(["inspect", prefix, "--samples", "0", "--histogram", str(picture)]) == 0
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    bars = (pixels == (0x3B, 0x75, 0xAF)).all(axis=2).sum(axis=1)
    starts = np.flatnonzero((bars[1:] > 0) & (bars[:-1] == 0)) + 1
    assert pixels.shape == (60 + 3 * 24 + 20, 960, 3)
    assert len(starts) == 3 and bars[starts[0]] == bars[starts[1]] == pytest.approx(2 * bars[starts[2]], abs=2)
    assert dataset(["inspect", prefix, "--histogram", str(tmp_path / "lengths.svg")]) == 2
    assert "ends in .png" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.glob("lengths*")) == ["lengths.png"]


def test_stat(dataset, prefix, capsys):
    assert dataset(["stat", str(Path(prefix).parent)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["5", "5", "26", "100.0%", "52", "all"]
    assert dataset(["stat", prefix, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["tokens"] == 26


def test_verify(dataset, prefix, tmp_path, capsys):
    assert dataset(["verify", str(tmp_path)]) == 0 and "text: whole" in capsys.readouterr().out
    assert dataset(["verify", prefix, "--vocab_size", "8"]) == 1
    assert "token id 8 in document 4 at token 8: not 0 to 7" in capsys.readouterr().out
    Path(prefix + ".meta.json").unlink()
    assert dataset(["verify", prefix]) == 0 and not read_sidecar(prefix)
    assert dataset(["verify", prefix, "--record"]) == 0 and read_sidecar(prefix)["tokens"] == 26
    assert dataset(["verify", prefix, "--source", str(tmp_path / "none")]) == 1
    assert dataset(["verify", prefix, prefix, "--source", prefix]) == 2


def test_split_merge_convert(dataset, prefix, tmp_path, capsys):
    parts = str(tmp_path / "parts" / "x")
    assert dataset(["split", prefix, "--output_prefix", parts, "--parts", "2"]) == 0
    assert dataset(["split", prefix, "--output_prefix", str(tmp_path / "y"), "--shares", "4,1"]) == 0
    assert make_dataset(str(tmp_path / "y_valid")).num_documents == 1
    merge = load("merge").main
    assert merge(["--input", str(tmp_path / "parts"), "--output-prefix", str(tmp_path / "all")]) == 0
    assert Path(prefix + ".bin").read_bytes() == (tmp_path / "all.bin").read_bytes()
    assert "2 datasets, 5 documents, 5 sequences, 26 tokens" in capsys.readouterr().out
    backwards = [parts + "_00001", parts + "_00000"]
    assert merge(["--input", *backwards, "--output_prefix", str(tmp_path / "back"), "--data_impl", "lazy"]) == 0
    back = make_dataset(str(tmp_path / "back"), "lazy")
    assert back.tokens[: len(make_dataset(backwards[0]).tokens)].tolist() == make_dataset(backwards[0]).tokens.tolist()
    assert dataset(["convert", str(tmp_path / "back"), str(tmp_path / "new"), "--dtype", "int32"]) == 0
    assert make_dataset(str(tmp_path / "new")).dtype == np.int32
    assert merge(["--input", str(tmp_path / "none"), "--output_prefix", str(tmp_path / "z")]) == 2
    assert dataset(["convert", prefix, prefix]) == 2 and "is what is read from" in capsys.readouterr().err


def test_trans_to_json(tmp_path, capsys):
    main = load("trans_to_json").main
    (tmp_path / "in.txt").write_text("document one, long\n\ndocument two, long\n\nshort\n")
    words = ["--input_path", str(tmp_path / "in.txt"), "--output_path", str(tmp_path / "out")]
    assert main([*words, "--no-shuffle", "--json_key", "content"]) == 0
    lines = (tmp_path / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["content"] for line in lines] == ["document one, long\n", "document two, long\n"]
    assert "2 documents, 1 too short, 0 could not be read" in capsys.readouterr().out
    orders = set()
    for seed in range(8):
        assert main([*words, "--seed", str(seed), "--json_key", "content"]) == 0
        orders.add((tmp_path / "out.jsonl").read_text())
    assert orders == {"\n".join(lines) + "\n", "\n".join(reversed(lines)) + "\n"}
    assert main([*words, "--no-merge", "--min_doc_length", "3", "--doc_spliter", "short"]) == 0
    assert len((tmp_path / "out" / "in.txt.jsonl").read_text().splitlines()) == 1
    assert main([*words, "--workers", "0"]) == 2 and "--workers is 0" in capsys.readouterr().err


def test_words_segmentation(tmp_path, capsys):
    main = load("words_segmentation").main
    (tmp_path / "a.jsonl").write_text('{"text": "我们学习。学习"}\n', encoding="utf-8")
    words = ["--input_path", str(tmp_path / "a.jsonl"), "--output_path", str(tmp_path / "out")]
    assert main(words) == 0 and (tmp_path / "out" / "a.jsonl.txt").read_text("utf-8") == "我们 学习 。\n学习\n\n"
    assert main(words) == 0 and "was there, left as it is" in capsys.readouterr().out
    assert main([*words, "--data_format", "wudao"]) == 2 and main([*words, "--log_interval", "0"]) == 2
