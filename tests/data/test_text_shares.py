"""Shares of text files: together they are the whole, whatever their number, and all are about as large."""

from __future__ import annotations

import gzip
import io
import json

import numpy as np
import pytest

from paddlenlp.data import text_sources
from paddlenlp.data.text_shares import Piece, share_of
from paddlenlp.data.text_sources import read_chunks

TEXTS = [f"text {number} {'x' * (number * 7 % 40)}\nof two lines" for number in range(50)]


def write(path, separator=""):
    """TEXTS in the form that the name asks for."""
    if path.name.endswith(".txt"):
        content = f"\r\n{separator}\r\n".join(TEXTS)
    elif path.suffix == ".json":
        content = json.dumps(TEXTS)
    else:
        content = "\n \n".join(json.dumps({"text": text}) for text in TEXTS)
    raw = b"\xef\xbb\xbf" + content.encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


def contents(pieces, separator=""):
    return [content for chunk in read_chunks(pieces, separator) for _, content in chunk.records]


@pytest.mark.parametrize("separator", ["", "***"])
@pytest.mark.parametrize("count", [1, 2, 7, 300])
def test_shares_one_after_another_are_the_whole(tmp_path, count, separator):
    names = ["a.jsonl", "b.txt", "c.json", "d.jsonl.gz", "e.jsonl"]
    files = [write(tmp_path / name, separator) for name in names]
    (tmp_path / "empty.txt").touch()
    files.append(tmp_path / "empty.txt")
    shares = [share_of(files, number, count, separator) for number in range(1, count + 1)]
    found = [content for share in shares for content in contents(share, separator)]
    assert found == contents(files, separator) and len(found) == 250
    whole = [piece.path for share in shares for piece in share if piece.path.suffix in (".gz", ".json")]
    assert whole == files[2:4], "they cannot be cut"


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_one_large_file_is_cut(tmp_path, name):
    path = write(tmp_path / name)
    sizes = [sum(piece.size for piece in share_of([path], number, 4)) for number in range(1, 5)]
    assert sum(sizes) == path.stat().st_size
    assert all(abs(size - sum(sizes) / 4) < 120 for size in sizes), "by no more than a record"


def test_nothing_in_the_last_share(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("x" * 100)
    assert [share_of([path], number, 3) for number in (1, 2, 3)] == [[Piece(path)], [], []]
    empty = tmp_path / "b.json"
    empty.touch()
    assert sum(len(share_of([empty], number, 3)) for number in (1, 2, 3)) == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt"])
def test_reading_a_piece_goes_on_from_any_chunk(tmp_path, monkeypatch, name):
    monkeypatch.setattr(text_sources, "CHUNK_RECORDS", 3)
    pieces = share_of([write(tmp_path / name)], 2, 3)
    whole = list(read_chunks(pieces))
    assert sum(chunk.read for chunk in whole) == pieces[0].size and pieces[0].start > 0
    for number, chunk in enumerate(whole):
        rest = list(read_chunks(pieces, start=chunk.place))
        assert [(c.records, c.place) for c in rest] == [(c.records, c.place) for c in whole[number + 1 :]]


def test_problems_name_the_place_of_the_piece(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("{}\n" * 10)
    (piece,) = share_of([path], 2, 2)
    assert [chunk.path for chunk in read_chunks([piece])][0] == f"{path} (from byte 15)"


def test_a_piece_is_a_file_of_its_own(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(bytes(np.arange(100, dtype=np.uint8)))
    with io.BufferedReader(Piece(path, 10, 30).open(), 4) as file:
        assert file.read(3) == bytes([10, 11, 12]) and file.tell() == 3
        assert file.seek(15) == 15 and file.read() == bytes(range(25, 30)) and file.read() == b""
        assert file.seek(-2, io.SEEK_END) == 18 and file.read(9) == bytes([28, 29])
