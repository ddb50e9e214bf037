"""Cleaning, cutting and encoding of records."""

from __future__ import annotations

import json
import os
import sys
import types

import numpy as np
import pytest

from paddlenlp.data.preprocess import DocumentEncoder, encode_chunks
from paddlenlp.data.preprocess_text import TextOptions, TextReader
from paddlenlp.data.progress import DocumentProgress
from paddlenlp.data.text_sources import Chunk
from paddlenlp.transformers.tokenizer_training import save_trained, train_byte_level_bpe
from paddlenlp.utils.errors import UsageError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    text = ["one two three four five. Six seven eight!", "中国人民学习。天地玄黄宇宙洪荒"]
    return save_trained(train_byte_level_bpe(text * 5, 320), tmp_path_factory.mktemp("tokenizer"))


def texts(text, **options):
    reader = TextReader(TextOptions(**options))
    return reader.texts(reader.cleaned(text))


def test_long_runs_are_written_once():
    assert texts("a" + "-" * 101 + "b" + "=" * 100) == ["a-b" + "=" * 100]
    assert texts("aaaab", max_repeated_len=3) == ["ab"]
    assert texts("aaab", max_repeated_len=3) == ["aaab"]


def test_sentences():
    text = " One 3.5 two. Three (four?) Five. 'Six!' seven. "
    assert texts(text) == [text.strip()]
    assert texts(text, split_sentences=True) == ["One 3.5 two.", "Three (four?)", "Five.", "'Six!' seven."]
    assert texts("甲。\n\n乙 \n", split_sentences=True, chinese=True) == ["甲。", "乙"]


def test_chinese_words():
    assert texts("中国人民学习", cn_whole_word_segment=True) == [["中国", "人民", "学习"]]
    assert texts("中国/人民//学习", cn_whole_word_segment=True, cn_splited=True, cn_split_dimer="/") == [
        ["中国", "人民", "学习"]
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_repeated_len": 0}, "max_repeated_len is 0; expected at least 1"),
        ({"min_doc_length": -1}, "min_doc_length is -1"),
        ({"unicode_normalization": "NFX"}, "'NFX'; expected NFC or NFKC"),
        ({"cn_whole_word_segment": True, "cn_seg_func": "other"}, "'other'; expected lac, seg, jieba"),
        ({"cn_splited": True, "cn_split_dimer": ""}, "cn_split_dimer is empty"),
    ],
)
def test_options_that_cannot_be_met(options, message):
    with pytest.raises(UsageError, match=message):
        TextOptions(**options).check()


def test_words_found_by_lac(monkeypatch):
    class LAC:
        def __init__(self, mode):
            self.mode = mode

        def run(self, text):
            words = [text[:2], text[2:]]
            return [words, ["n", "v"]] if self.mode == "lac" else words

    monkeypatch.setitem(sys.modules, "LAC", types.SimpleNamespace(LAC=LAC))
    for name in ("lac", "seg"):
        assert texts("人民学习", cn_whole_word_segment=True, cn_seg_func=name) == [["人民", "学习"]]
    monkeypatch.setitem(sys.modules, "LAC", None)
    with pytest.raises(UsageError, match="cn_seg_func seg needs `pip install LAC`"):
        TextOptions(cn_whole_word_segment=True, cn_seg_func="seg").check()


def test_cleaning():
    dirty = " \ufeffe\u0301\x00 \uff21\x07\tb\u200b\n\x7f "
    assert texts(dirty) == ["\ufeffe\u0301\x00 \uff21\x07\tb\u200b\n\x7f"]
    assert texts(dirty, remove_control_characters=True) == ["e\u0301 \uff21\tb"]
    assert texts("e\u0301\uff21", unicode_normalization="NFC") == ["\xe9\uff21"]
    assert texts("e\u0301\uff21", unicode_normalization="NFKC") == ["\xe9A"]


def test_short_documents_are_left_out():
    lines = [json.dumps({"text": text}).encode() for text in ("abc", "  ab ", "", "abcd")]
    chunk = Chunk("a", True, list(enumerate(lines, 1)))
    assert TextReader(TextOptions(min_doc_length=3)).documents(chunk) == ([["abc"], ["abcd"]], [], 2)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"text": "a"', "not JSON"),
        (b"[1]", "expected a JSON object, found list"),
        (b'{"txt": "a"}', "no key 'text'; found 'txt'"),
        (b'{"text": 3}', "should hold a string, found int"),
        (b'{"text": "\xff"}', "not UTF-8: byte 0xff at offset 10"),
        (b'{"text": "\\ud800"}', "surrogate"),
        (b'{"text": ' + b"[" * 100000, "not JSON"),
    ],
)
def test_bad_records(line, reason):
    chunk = Chunk("a.jsonl", True, [(1, b'{"text": "x"}'), (7, line)])
    found, problems, short = TextReader(TextOptions()).documents(chunk)
    assert found == [["x"]] and short == 0
    assert str(problems[0]).startswith("a.jsonl:7: ") and reason in problems[0].reason


def test_encoded_documents(tokenizer):
    encoder = DocumentEncoder(tokenizer, TextOptions(split_sentences=True), append_eos=True)
    lines = [json.dumps({"text": t}).encode() for t in ("One two. Three.", "  ", "four")]
    encoded = encoder(Chunk("a", True, list(enumerate(lines, 1)), read=9))
    parts = [tokenizer.encode_ids("One two."), [*tokenizer.encode_ids("Three."), 2], [*tokenizer.encode_ids("four"), 2]]
    assert encoded.sizes.tolist() == [len(part) for part in parts] and encoded.sequences.tolist() == [2, 1]
    assert encoded.read == 9
    assert encoded.ids.dtype == np.uint16 and encoded.ids.tolist() == [i for part in parts for i in part]
    without = DocumentEncoder(tokenizer, TextOptions())(Chunk("a", True, [(1, lines[0])]))
    assert without.ids.tolist() == tokenizer.encode_ids("One two. Three.")


def test_no_token_reaches_across_words(tokenizer):
    line = json.dumps({"text": "中国人民学习"}).encode()
    encoder = DocumentEncoder(tokenizer, TextOptions(cn_whole_word_segment=True))
    expected = [i for word in ("中国", "人民", "学习") for i in tokenizer.encode_ids(word)]
    assert encoder(Chunk("a", True, [(1, line)])).ids.tolist() == expected
    assert tokenizer.encode_ids("中国人民学习") != expected, "the vocabulary has no token across words to avoid"


def test_end_token_is_needed(tokenizer):
    bare = type(tokenizer)(tokenizer._files, "here", eos_token=None)
    with pytest.raises(UsageError, match="here: append_eos .* no eos_token"):
        DocumentEncoder(bare, TextOptions(), append_eos=True)


def test_order_and_bounds_of_workers(tokenizer):
    """Two processes give what one gives, in order, and only a few chunks are read ahead."""
    taken = []

    def chunks():
        for number in range(40):
            taken.append(number)
            yield Chunk("a", False, [(1, f"document {number}".encode() * (1 + 50 * (number % 3)))])

    encoder = DocumentEncoder(tokenizer, TextOptions())
    expected = [encoded.ids.tolist() for encoded in encode_chunks(chunks(), encoder, 1)]
    taken.clear()
    found = encode_chunks(chunks(), encoder, 2)
    first = next(found).ids.tolist()
    assert len(taken) <= 6
    assert [first, *(encoded.ids.tolist() for encoded in found)] == expected


class DyingTokenizer:
    """Ends the process that encodes."""

    eos_token_id, name_or_path = None, "dying"

    def __len__(self):
        return 10

    def encode_batch(self, texts):
        os._exit(3)


def test_worker_that_dies():
    encoder = DocumentEncoder(DyingTokenizer(), TextOptions())
    with pytest.raises(UsageError, match="worker process ended suddenly"):
        list(encode_chunks([Chunk("a", False, [(1, b"x")])] * 3, encoder, 2))


def test_progress_lines(capsys):
    progress = DocumentProgress(interval=10)
    progress.start(100, read=50, documents=3)
    with progress:
        for documents in (4, 9, 12, 19, 35, 36):
            progress.add(1, 2_000_000, documents, documents * 100)
        assert progress.rates().endswith("tokens/s")
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["Processed 12 documents", "Processed 35 documents"]
    assert "docs/s" in lines[0] and "MB/s" in lines[0] and "tokens/s" in lines[0]
    assert "53 % read, 0:00:0" in lines[0] and lines[0].endswith("remain.")


def test_rates_leave_out_what_was_done_before(monkeypatch):
    clock = iter([0.0, 0.0, 2.0, 2.0])  # made, started, two looks
    monkeypatch.setattr("paddlenlp.data.progress.time.perf_counter", lambda: next(clock))
    progress = DocumentProgress(interval=None)
    progress.start(1000, read=400, documents=100, tokens=5000)
    progress.add(200, 3_000_000, 150, 6000)
    assert progress.rates() == "25.0 docs/s, 1.50 MB/s, 500 tokens/s"
    assert progress.left() == ", 60 % read, 0:00:04 remain"
