"""llm/tools/create_pretraining_data.py"""

from __future__ import annotations

import gzip
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zstandard

from paddlenlp.data import MMapIndexedDataset, make_dataset, read_sidecar
from paddlenlp.data.progress import DocumentProgress
from paddlenlp.transformers.auto.tokenizer import AutoTokenizer

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def make(create_pretraining_data, tokenizer_dir, tmp_path):
    """make(input, *options) -> (exit code, prefix)."""

    def run(source, *options, prefix=tmp_path / "out" / "data", tokenizer=("--tokenizer_name_or_path", tokenizer_dir)):
        words = ["--input_path", source, "--output_prefix", prefix, "--workers", "1", *tokenizer, *options]
        return create_pretraining_data([str(word) for word in words]), str(prefix)

    return run


def documents(prefix):
    """Ids of each sequence, and the bounds of the documents."""
    data = MMapIndexedDataset(prefix)
    return [data.get(i).tolist() for i in range(len(data))], np.asarray(data.doc_idx).tolist()


def test_every_document_in_order(make, corpus, texts, tokenizer_dir, capsys):
    code, prefix = make(corpus, "--append_eos")
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    found, bounds = documents(prefix)
    assert code == 0 and bounds == list(range(701))
    assert found == [[*tokenizer.encode_ids(text), tokenizer.eos_token_id] for text in texts]
    total = sum(map(len, found))
    facts = read_sidecar(prefix)
    assert facts["tokenizer_sha256"] == tokenizer.fingerprint() and facts["vocab_size"] == 340
    assert (facts["documents"], facts["tokens"], facts["bin_bytes"]) == (700, total, 2 * total)
    assert facts["max_token_id"] == max(map(max, found)) and facts["command"]
    out, err = capsys.readouterr()
    assert f"Total documents num: 700\nTotal tokens num: {total}\n" in out and "Total sentences num: 700" in out
    assert f"Average tokens per sentence: {total / 700:.2f}" in out and "[start] datetime: " in out
    assert "passed over: LICENSE" in err


def test_workers_give_the_same_files(make, corpus, tmp_path):
    _, one = make(corpus, "--append_eos")
    _, two = make(corpus, "--append_eos", "--workers", "2", prefix=tmp_path / "two")
    for suffix in (".bin", ".idx"):
        assert Path(one + suffix).read_bytes() == Path(two + suffix).read_bytes()


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.jsonl.zst", "a.json", "a.txt.gz", "a.parquet"])
def test_kinds_of_input(make, corpus, texts, tmp_path, name):
    some = texts[:300]
    if name == "a.parquet":
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        sink = io.BytesIO()
        parquet.write_table(pyarrow.table({"text": some}), sink)
        content = sink.getvalue()
    elif name == "a.json":
        content = json.dumps([{"text": text} for text in some]).encode()
    elif ".txt" in name:
        content = "\n\n\n".join(some).encode()
    else:
        content = b"\n".join(json.dumps({"text": text}).encode() for text in some)
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(os.path.splitext(name)[1], bytes)
    (tmp_path / name).write_bytes(pack(content))
    _, prefix = make(tmp_path / name)
    _, expected = make(corpus, "--max_doc_num", "300", prefix=tmp_path / "expected")
    assert Path(prefix + ".bin").read_bytes() == Path(expected + ".bin").read_bytes()


def test_text_options(make, tmp_path, tokenizer_dir):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"body": "The fox. A dog-----!", "text": "other"}))
    assert documents(make(path, "--json_key", "body")[1])[0] == [tokenizer.encode_ids("The fox. A dog-----!")]
    found = documents(make(path, "--json_key", "body", "--split_sentences", "--max_repeated_len", "3")[1])
    assert found == ([tokenizer.encode_ids("The fox."), tokenizer.encode_ids("A dog-!")], [0, 2])
    text = tmp_path / "a.txt"
    text.write_text("one\ntwo\n%%\nthree")
    assert documents(make(text, "--doc_spliter", "%%")[1])[0] == [
        tokenizer.encode_ids(t) for t in ("one\ntwo", "three")
    ]
    assert len(documents(make(text, "--split_sentences", "--chinese")[1])[0]) == 4
    text.write_text("学而 时习之")
    split = ["--cn_whole_word_segment", "--cn_splited"]
    words = [i for word in ("学而", "时习之") for i in tokenizer.encode_ids(word)]
    assert documents(make(text, *split)[1])[0] == [words]
    assert documents(make(text, *split, "--cn_split_dimer", "x")[1])[0] == [tokenizer.encode_ids("学而 时习之")]


def test_cleaning_options(make, tmp_path, tokenizer_dir, capsys):
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_dir)
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in ("\uff21 fox\x07", "dog", "A fox", "A dog")))
    options = ["--remove_control_characters", "--unicode_normalization", "NFKC", "--min_doc_length", "4"]
    _, prefix = make(path, *options, "--remove_duplicates")
    assert documents(prefix)[0] == [tokenizer.encode_ids(text) for text in ("A fox", "A dog")]
    out = capsys.readouterr().out
    assert "they are too short: 1" in out and "their text was there before: 1" in out


def test_lazy_format_is_written(make, corpus, tmp_path):
    _, lazy = make(corpus, "--data_impl", "lazy")
    _, mmap = make(corpus, prefix=tmp_path / "mmap")
    old, new = make_dataset(lazy, "lazy"), make_dataset(mmap)
    assert np.array_equal(old.tokens, new.tokens) and np.array_equal(old.doc_idx, new.doc_idx)
    assert np.array_equal(old.pointers, new.pointers)


def test_shards(make, corpus, tmp_path):
    _, whole = make(corpus)
    parts = [make(corpus, "--shard", f"{number}/2", prefix=tmp_path / f"s{number}")[1] for number in (1, 2)]
    assert b"".join(Path(part + ".bin").read_bytes() for part in parts) == Path(whole + ".bin").read_bytes()


def test_interrupted_and_run_again(make, corpus, tmp_path, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        real, calls = DocumentProgress.add, iter(range(99))

        def add(self, *args):
            real(self, *args)
            if next(calls) == 1:
                raise KeyboardInterrupt

        patch.setattr(DocumentProgress, "add", add)
        code, prefix = make(corpus)
    assert code == 130 and "run the same command again to go on" in capsys.readouterr().err
    make(corpus)
    assert "going on after 512 documents" in capsys.readouterr().err
    _, alone = make(corpus, prefix=tmp_path / "alone")
    for suffix in (".bin", ".idx"):
        assert Path(prefix + suffix).read_bytes() == Path(alone + suffix).read_bytes()


@pytest.mark.parametrize("option", ["--model_name_or_path", "--model_name", "--tokenizer_name"])
def test_other_names_of_the_tokenizer(make, corpus, tokenizer_dir, option):
    assert make(corpus, "--max_doc_num", "2", tokenizer=(option, tokenizer_dir))[0] == 0
    both = ("--model_name", tokenizer_dir, "--tokenizer_name", "LlamaTokenizer")
    assert make(corpus, "--max_doc_num", "2", tokenizer=both)[0] == 0


def test_progress_lines(make, corpus, capsys):
    make(corpus, "--log_interval", "300")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Processed ")]
    assert len(lines) == 2 and "tokens/s" in lines[0]


def test_bad_lines_are_reported_and_counted(make, tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "two"\n\n{"no": 1}\n{"text": "three"}\n')
    code, prefix = make(path)
    out, err = capsys.readouterr()
    assert code == 0 and len(documents(prefix)[0]) == 2
    assert f"{path}:2: not JSON" in err and f"{path}:4: no key 'text'" in err
    assert "could not be read: 2" in out


def test_bad_line_can_stop_the_run(make, tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "one"}\n{"text": "two"\n')
    code, prefix = make(path, "--on_error", "stop")
    assert code == 2 and f"{path}:2: not JSON" in capsys.readouterr().err
    assert list(Path(prefix).parent.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"[1]\n[2]", [], "all 2 records were bad, the first"),
        (b'{"text": "  "}', [], "no documents with text in"),
        (b'{"text": "x"}', ["--shard", "3/2"], "--shard is '3/2'; expected I/N"),
        (b'{"text": "x"}', ["--sync_interval", "-1"], "--sync_interval is -1.0"),
        (b'{"text": "x"}', ["--min_doc_length", "5"], "1 are shorter than min_doc_length"),
        (b'{"text": "x"}', ["--workers", "0"], "--workers is 0; expected at least 1"),
        (b'{"text": "x"}', ["--max_doc_num", "0"], "--max_doc_num is 0"),
        (b'{"text": "x"}', ["--cn_whole_word_segment", "--cn_seg_func", "lac"], "needs `pip install LAC`"),
        (b'{"text": "x"}', ["--input_path", "absent.jsonl"], "absent.jsonl: no such file"),
    ],
)
def test_errors(make, tmp_path, capsys, content, options, message):
    (tmp_path / "a.jsonl").write_bytes(content)
    code, prefix = make(tmp_path / "a.jsonl", *options)
    err = capsys.readouterr().err
    assert code == 2 and message in err and "Traceback" not in err
    assert not Path(prefix).parent.exists() or list(Path(prefix).parent.iterdir()) == []


def test_nowhere_to_write(make, corpus, tmp_path, capsys):
    (tmp_path / "file").touch()
    assert make(corpus, prefix=tmp_path / "file" / "data")[0] == 2
    assert "data.bin: cannot write" in capsys.readouterr().err


def test_no_tokenizer(make, corpus, tmp_path, capsys):
    assert make(corpus, tokenizer=())[0] == 2
    assert "--tokenizer_name_or_path" in capsys.readouterr().err
    assert make(corpus, tokenizer=("--tokenizer_name_or_path", tmp_path))[0] == 2
    assert "no tokenizer here" in capsys.readouterr().err


def test_from_a_clone_without_paddle(corpus, tokenizer_dir, tmp_path):
    """The command runs anywhere without an installed package, two processes included, and never imports Paddle."""
    (tmp_path / "paddle.py").write_text("raise RuntimeError('Paddle was imported')")
    tool = ROOT / "llm" / "tools" / "create_pretraining_data.py"
    words = [
        "--input_path",
        corpus,
        "--tokenizer_name_or_path",
        tokenizer_dir,
        "--output_prefix",
        "data",
        "--workers",
        "2",
    ]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, str(tool), *map(str, words)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert len(documents(str(tmp_path / "data"))[0]) == 700


def test_the_corpus_that_is_shipped():
    """Documents of English and Chinese text in mixed order, and the licences beside them."""
    folder = ROOT / "llm" / "corpus"
    with gzip.open(folder / "corpus.jsonl.gz", "rt", encoding="utf-8") as file:
        found = [json.loads(line) for line in file]
    assert len(found) > 2000 and min(len(document["text"]) for document in found) >= 100
    for part in (found[:300], found[-300:]):
        assert {document["source"] for document in part} == {"bible", "python_docs", "classics"}
        for document in part:
            chinese = sum("\u4e00" <= character <= "\u9fff" for character in document["text"])
            assert (chinese > 0.5 * len(document["text"])) == (document["source"] == "classics")
    assert "MIT" in (folder / "LICENSE.classics").read_text()
    assert "Python Software Foundation" in (folder / "LICENSE.python-docs").read_text(encoding="utf-8")
