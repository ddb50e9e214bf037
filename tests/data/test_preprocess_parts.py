"""Runs that end early and are taken up again; what makes their parts useless."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddlenlp.data import indexed_builder, make_dataset
from paddlenlp.data.dataset_copy import merge_datasets
from paddlenlp.data.partial_files import GrowingFile, PartsUnusable
from paddlenlp.data.preprocess import DocumentEncoder, RunOptions, make_dataset_from_text
from paddlenlp.data.preprocess_parts import Parts
from paddlenlp.data.preprocess_text import TextOptions
from paddlenlp.data.progress import DocumentProgress
from paddlenlp.transformers.tokenizer_training import save_trained, train_byte_level_bpe
from paddlenlp.utils.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
OFTEN = RunOptions(sync_interval=0)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return save_trained(train_byte_level_bpe(["one two three"] * 5, 270), tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture
def source(tmp_path, monkeypatch):
    """Two files of 60 documents each, every fifth one a repetition; read ten records at a time."""
    monkeypatch.setattr("paddlenlp.data.text_sources.CHUNK_RECORDS", 10)
    for name in "ab":
        lines = [json.dumps({"text": f"{name} {i if i % 5 else 0} two. Three"}) for i in range(60)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    return [str(tmp_path / "*.jsonl")]


@pytest.fixture
def said(monkeypatch):
    """Everything that is logged while data is prepared."""
    found = []
    for module in ("preprocess", "preprocess_parts"):
        for level in ("info", "warning"):
            monkeypatch.setattr(f"paddlenlp.data.{module}.logger.{level}", found.append)
    return found


class Interrupting(DocumentProgress):
    """Interrupts after so many chunks."""

    def __init__(self, chunks):
        super().__init__(None)
        self.left = chunks

    def add(self, *args):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def interrupt(source, prefix, encoder, chunks, options=OFTEN):
    with pytest.raises(KeyboardInterrupt):
        make_dataset_from_text(source, prefix, encoder, options, progress=Interrupting(chunks))


def content(prefix):
    return [Path(prefix + suffix).read_bytes() for suffix in (".bin", ".idx")]


@pytest.mark.parametrize("repeated", [False, True])
def test_interrupted_anywhere(tokenizer, source, tmp_path, repeated):
    text = TextOptions(remove_duplicates=repeated, split_sentences=True)
    encoder = DocumentEncoder(tokenizer, text, append_eos=True)
    alone = make_dataset_from_text(source, str(tmp_path / "alone"), encoder)
    assert (alone.documents, alone.repeated) == ((98, 22) if repeated else (120, 0))
    for chunks in (1, 4, 6, 7, 8, 13):
        prefix = str(tmp_path / f"cut{chunks}")
        interrupt(source, prefix, encoder, chunks)
        result = make_dataset_from_text(source, prefix, encoder)
        assert content(prefix) == content(str(tmp_path / "alone")) and result.earlier_tokens > 0
        counts = (result.documents, result.sequences, result.tokens, result.repeated)
        assert counts == (alone.documents, alone.sequences, alone.tokens, alone.repeated)
        assert not Path(prefix + ".parts").exists()


@pytest.mark.parametrize("step", range(8))
def test_killed_while_the_files_get_their_names(tokenizer, source, tmp_path, monkeypatch, step):
    encoder = DocumentEncoder(tokenizer, TextOptions())
    alone, prefix = str(tmp_path / "alone"), str(tmp_path / "cut")
    make_dataset_from_text(source, alone, encoder)
    steps = iter(range(99))

    def killed(real):
        def call(*args, **more):
            if next(steps) == step:
                raise KeyboardInterrupt
            return real(*args, **more)

        return call

    with monkeypatch.context() as patch:
        for owner, name in ((indexed_builder.os, "replace"), (indexed_builder, "fsync_folder")):
            patch.setattr(owner, name, killed(getattr(owner, name)))
        patch.setattr(indexed_builder, "write_sidecar", killed(indexed_builder.write_sidecar))
        patch.setattr(Parts, "remove", killed(Parts.remove))
        with pytest.raises(KeyboardInterrupt):
            make_dataset_from_text(source, prefix, encoder, RunOptions(sync_interval=1e9))
    again = make_dataset_from_text(source, prefix, encoder)
    assert again.earlier_tokens == (again.tokens if step > 1 else 0), "only the first two steps are before the journal"
    assert content(prefix) == content(alone) and not Path(prefix + ".parts").exists()
    assert make_dataset(prefix).num_documents == 120


def test_half_a_chunk_is_never_noted(tokenizer, source, tmp_path, monkeypatch):
    """The disk is full after the tokens of a chunk and before their sizes."""
    encoder, prefix = DocumentEncoder(tokenizer, TextOptions()), str(tmp_path / "cut")
    make_dataset_from_text(source, str(tmp_path / "alone"), encoder)
    real, calls = GrowingFile.append, iter(range(10**6))

    def append(self, values):
        if self.path.name == "sizes" and next(calls) == 4:
            raise OSError(28, "No space left on device")
        real(self, values)

    with monkeypatch.context() as patch:
        patch.setattr(GrowingFile, "append", append)
        with pytest.raises(UsageError, match=r"cut\.bin: cannot write this file: No space left.*bytes are free"):
            make_dataset_from_text(source, prefix, encoder, OFTEN)
    assert make_dataset_from_text(source, prefix, encoder).earlier_tokens > 0
    assert content(prefix) == content(str(tmp_path / "alone"))


def test_the_old_dataset_stays_until_the_new_one_is_whole(tokenizer, source, tmp_path):
    encoder, prefix = DocumentEncoder(tokenizer, TextOptions()), str(tmp_path / "data")
    make_dataset_from_text(source[:1], prefix, encoder)
    before = content(prefix)
    interrupt(source, prefix, DocumentEncoder(tokenizer, TextOptions(), append_eos=True), 3)
    assert content(prefix) == before


def touched(path):
    path.write_text(path.read_text().replace("a 7 two", "a 7 tow"))


CHANGES = {
    "an option": (lambda path: {"min_doc_length": 2}, "min_doc_length is 2, was 0"),
    "an input": (lambda path: touched(path / "a.jsonl"), "a.jsonl has changed"),
    "one more": (lambda path: (path / "c.jsonl").write_text('{"text": "x"}'), "c.jsonl is new among"),
    "one less": (lambda path: (path / "b.jsonl").unlink(), "the inputs are others"),
    "tokens": (lambda path: (path / "cut.parts/tokens").write_bytes(b"x" * 4000), "holds other bytes"),
    "sizes": (lambda path: (path / "cut.parts/sizes").write_bytes(b"x"), "bytes too short"),
    "no file": (lambda path: (path / "cut.parts/documents").unlink(), "documents is missing"),
    "journal": (lambda path: (path / "cut.parts/journal.json").write_text("{"), "cannot be read"),
    "keys": (lambda path: (path / "cut.parts/journal.json").write_text("{}"), "not of this version"),
    "version": (lambda path: (path / "cut.parts/run.json").write_text("{}"), "another version"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_makes_parts_useless(tokenizer, source, tmp_path, said, change):
    prefix, (act, reason) = str(tmp_path / "cut"), CHANGES[change]
    interrupt(source, prefix, DocumentEncoder(tokenizer, TextOptions()), 8)
    changed = act(tmp_path)
    encoder = DocumentEncoder(tokenizer, TextOptions(**changed) if isinstance(changed, dict) else TextOptions())
    said.clear()
    result = make_dataset_from_text(source, prefix, encoder)
    assert [line for line in said if "of no use, begun anew" in line and reason in line], said
    make_dataset_from_text(source, str(tmp_path / "alone"), encoder)
    assert content(prefix) == content(str(tmp_path / "alone")) and result.earlier_tokens == 0


def test_another_tokenizer_or_way_of_reading(tokenizer, source, tmp_path, said):
    other = save_trained(train_byte_level_bpe(["four five"] * 5, 265), tmp_path / "other")
    plain, prefix = DocumentEncoder(tokenizer, TextOptions()), str(tmp_path / "cut")
    for options, made, reason in (
        (RunOptions(), other, "the tokenizer is another one"),
        (RunOptions(max_documents=7), tokenizer, "max_documents is 7, was None"),
        (RunOptions(separator="%"), tokenizer, "separator is '%'"),
        (RunOptions(impl="lazy"), tokenizer, "impl is 'lazy', was 'mmap'"),
    ):
        interrupt(source, prefix, plain, 3)
        said.clear()
        make_dataset_from_text(source, prefix, DocumentEncoder(made, TextOptions()), options)
        assert any(reason in line for line in said), said
    assert make_dataset(prefix, "lazy").num_documents == 120


def test_workers_do_not_count(tokenizer, source, tmp_path, said):
    encoder, prefix = DocumentEncoder(tokenizer, TextOptions()), str(tmp_path / "cut")
    interrupt(source, prefix, encoder, 5)
    result = make_dataset_from_text(source, prefix, encoder, RunOptions(workers=2, sync_interval=3, stop_on_error=True))
    make_dataset_from_text(source, str(tmp_path / "alone"), encoder)
    assert content(prefix) == content(str(tmp_path / "alone")) and result.earlier_tokens
    assert any("going on after 50 documents" in line for line in said)


HOLDER = """
import sys
from paddlenlp.data.preprocess_parts import Parts
with Parts(sys.argv[1], {"format": 1}):
    print("holds it", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_make_one_dataset(tokenizer, source, tmp_path):
    encoder, prefix = DocumentEncoder(tokenizer, TextOptions()), str(tmp_path / "data")
    command = [sys.executable, "-c", HOLDER, prefix]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "holds it\n"
        with pytest.raises(UsageError, match="another process is making this dataset"):
            make_dataset_from_text(source, prefix, encoder)
        other.kill()
    make_dataset_from_text(source, prefix, encoder)  # the lock has ended with its process


def test_shares_one_after_another_are_the_whole(tokenizer, source, tmp_path):
    encoder = DocumentEncoder(tokenizer, TextOptions())
    make_dataset_from_text(source, str(tmp_path / "whole"), encoder)
    shares = [str(tmp_path / f"share{number}") for number in (1, 2, 3)]
    for number, prefix in enumerate(shares, 1):
        make_dataset_from_text(source, prefix, encoder, RunOptions(share=(number, 3)))
    merge_datasets(shares, str(tmp_path / "merged"))
    assert content(str(tmp_path / "merged")) == content(str(tmp_path / "whole"))
    with pytest.raises(UsageError, match=r"no documents.*\(share 2 of 1000000\)"):
        make_dataset_from_text(source, str(tmp_path / "share"), encoder, RunOptions(share=(2, 10**6)))


def test_growing_file(tmp_path):
    file = GrowingFile(tmp_path / "a", "<i4")
    file.append_one(1)
    file.append(np.array([2, 3]))
    state = file.sync()
    file.append_one(4)
    file.close()
    (tmp_path / "a").write_bytes((tmp_path / "a").read_bytes() + b"half")
    again = GrowingFile(tmp_path / "a", "<i4", state)
    again.append(np.array([5]))
    assert np.concatenate(list(again.blocks())).tolist() == [1, 2, 3, 5] and again.count == 4
    again.close()
    with pytest.raises(PartsUnusable, match="other bytes"):
        GrowingFile(tmp_path / "a", "<i4", {**state, "count": 4})


def test_kills(tmp_path):
    """The campaign of benchmarks/data/kill_prepare.py, short."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); from kill_prepare import campaign; from pathlib import Path"
    code += "; print(campaign(Path(sys.argv[2]), 3, 1_500_000, 3))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT / "benchmarks/data"), str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "'kills': 3" in done.stdout and "'differences': 0" in done.stdout
