"""What input_dir may say, and what is reported when it is wrong."""

from __future__ import annotations

import logging
import os

import numpy as np
import pytest

from paddlenlp.data import check_data, find_data_prefixes, get_train_data_file
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger


def test_folder_is_sorted_and_each_prefix_counts_once(tmp_path, make_pair):
    folder = tmp_path / "with space"
    for name in ("b", "a", "c.idx.d"):
        make_pair(name, folder=folder)
    np.savez(folder / "a_idx.npz", lens=[1])
    (folder / "index-cache.idx").mkdir()
    (folder / "notes.idx.txt").write_text("no dataset")
    expected = [str(folder / name) for name in ("a", "b", "c.idx.d")]
    assert find_data_prefixes(str(folder)) == ([1.0, 1.0, 1.0], expected)
    assert get_train_data_file(str(folder)) == [1.0, expected[0], 1.0, expected[1], 1.0, expected[2]]


def test_one_dataset_has_no_weight_and_keeps_the_folder_as_written(tmp_path, make_pair, monkeypatch):
    make_pair("only", folder=tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    assert find_data_prefixes("./data") == (None, ["./data/only"])
    assert get_train_data_file("./data/") == ["./data/only"]
    assert find_data_prefixes("data/only") == (None, ["data/only"])


@pytest.mark.parametrize(
    "text",
    [
        '{"datasets": [{"prefix": "sub/a", "weight": 0.3}, {"prefix": "/x/b", "weight": 2}]}',
        '{"sub/a": 0.3, "/x/b": 2}',
    ],
)
def test_a_blend_file_names_prefixes_from_its_own_folder(tmp_path, text):
    (tmp_path / "blend.json").write_text(text)
    assert find_data_prefixes(str(tmp_path / "blend.json")) == ([0.3, 2.0], [str(tmp_path / "sub/a"), "/x/b"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
        ("[]", 'expected an object with a list "datasets", found list'),
        ("{}", "it names no datasets"),
        ('{"a": 0}', "entry 1: weight is 0, expected a number above 0"),
        ('{"a": true, "b": "1"}', "entry 1: weight is True.*entry 2: weight is '1'"),
        ('{"datasets": [{"prefix": "a"}]}', r"entry 1: expected the keys prefix and weight, found \['prefix'\]"),
        ('{"datasets": [{"prefix": 1, "weight": 1}, 5]}', "prefix is 1, .*entry 2: .*found 5"),
        ('{"datasets": [{"prefix": "a", "weight": 1}, {"prefix": "a", "weight": 2}]}', "'a' occurs 2 times"),
    ],
)
def test_blend_files_that_are_refused(tmp_path, text, words):
    (tmp_path / "blend.json").write_text(text)
    with pytest.raises(UsageError, match=words):
        find_data_prefixes(str(tmp_path / "blend.json"))


def test_weighted_pairs():
    assert find_data_prefixes("0.3 /x/a  2 b") == ([0.3, 2.0], ["/x/a", "b"])
    assert get_train_data_file("0.3 /x/a  2 b") == [0.3, "/x/a", 2.0, "b"]


@pytest.mark.parametrize(
    "text, message",
    [
        ("nowhere", r"'nowhere' is not a folder and nowhere.idx does not exist"),
        ("0.3 a b", r"has 3 parts. Expected pairs"),
        ("a 0.3 b 0.7", r"could not convert string to float: 'a'"),
        ("0 a 1 b", r"weights are \[0.0, 1.0\]. Expected numbers above 0"),
        ("-1 a 1 b", r"Expected numbers above 0"),
        ("nan a 1 b", r"Expected numbers above 0"),
    ],
)
def test_wrong_texts(text, message):
    with pytest.raises(UsageError, match=message):
        find_data_prefixes(text)


def test_folder_without_data(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"1")
    with pytest.raises(UsageError, match=r"holds no dataset: expected at least one pair .* found 1 other entries"):
        find_data_prefixes(str(tmp_path))


def test_check_data_reports_every_broken_dataset_at_once(make_pair):
    good, short, missing = make_pair("good"), make_pair("short"), "/nowhere/x"
    os.truncate(short + ".bin", 50)
    check_data([good])
    with pytest.raises(UsageError) as caught:
        check_data([good, short, missing])
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 and "short.bin" in lines[0] and "/nowhere/x is incomplete" in lines[1]


def test_check_data_compares_ids_with_the_vocabulary(make_pair):
    prefix = make_pair()
    check_data([prefix], vocab_size=26)
    with pytest.raises(UsageError, match=r"holds token id 25 \(in document 4 at token 8\).*has 25 tokens"):
        check_data([prefix], vocab_size=25)


def test_check_data_warns_about_another_tokenizer(make_pair, monkeypatch):
    prefix = make_pair(sidecar=True)
    seen = []
    monkeypatch.setattr(logger, "warning", seen.append)
    check_data([prefix], tokenizer_sha256="b" * 64)
    assert seen == []  # the data does not say
    from paddlenlp.data import read_sidecar, write_sidecar

    write_sidecar(prefix, {**read_sidecar(prefix), "tokenizer_sha256": "a" * 64})
    check_data([prefix], tokenizer_sha256="a" * 64)
    assert seen == []
    check_data([prefix], tokenizer_sha256="b" * 64)
    assert len(seen) == 1 and "another tokenizer" in seen[0] and logger.level == logging.INFO
