"""Which files are read, and the records in them."""

from __future__ import annotations

import gzip
import json
import os
import sys

import pytest
import zstandard

from paddlenlp.data import text_records, text_sources
from paddlenlp.data.text_sources import find_text_files, kind_of, read_chunks
from paddlenlp.utils.errors import UsageError

LINES = [json.dumps({"text": f"document {i}"}).encode() for i in range(1000)]


def records(path, separator=""):
    chunks = list(read_chunks([path], separator))
    return [record for chunk in chunks for record in chunk.records], [p for chunk in chunks for p in chunk.problems]


def test_folder_is_walked_in_order(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / ".hidden").mkdir()
    for name in (
        "z.jsonl",
        "b/a.txt",
        "a.jsonl.gz",
        "c.json.zst",
        "README.md",
        "x.gz",
        "t.parquet.gz",
        ".hidden/y.txt",
        ".w.txt",
    ):
        (tmp_path / name).touch()
    found, passed_over = find_text_files(str(tmp_path))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == [
        "a.jsonl.gz",
        "b/a.txt",
        "c.json.zst",
        "z.jsonl",
    ]
    assert sorted(path.name for path in passed_over) == ["README.md", "t.parquet.gz", "x.gz"]
    assert find_text_files(str(tmp_path / "*.jsonl"))[0] == [tmp_path / "z.jsonl"]
    assert find_text_files([str(tmp_path / "z.jsonl"), str(tmp_path)])[0][0] == tmp_path / "z.jsonl"
    assert len(find_text_files([str(tmp_path), str(tmp_path)])[0]) == 4, "a file counts once"
    assert kind_of(tmp_path / "x.jsonl.gz") == ".jsonl"


def test_inputs_that_cannot_be_used(tmp_path):
    (tmp_path / "picture.png").touch()
    for name, message in [
        ("absent", "no such file"),
        ("*.nothing", "no such file"),
        ("picture.png", "not a text file"),
    ]:
        with pytest.raises(UsageError, match=message):
            find_text_files(str(tmp_path / name))
    with pytest.raises(UsageError, match="no text files in.*jsonl"):
        find_text_files(str(tmp_path))


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
def test_lines_of_packed_files(tmp_path, packing):
    content = b"\xef\xbb\xbf" + b"\n".join([LINES[0], b"", b"  ", *LINES[1:]])
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[packing]
    half = len(content) // 2
    path = tmp_path / f"a.jsonl{packing}"
    path.write_bytes(pack(content[:half]) + pack(content[half:]))  # packed files may be put one behind another
    found, problems = records(path)
    assert [line for _, line in found if line.strip() not in LINES] == [] and len(found) == 1000 and not problems
    assert [number for number, _ in found][:3] == [1, 4, 5]
    chunks = list(read_chunks([path]))
    assert max(len(chunk.records) for chunk in chunks) == text_sources.CHUNK_RECORDS
    assert sum(chunk.read for chunk in chunks) == path.stat().st_size


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_file_that_breaks_off(tmp_path, packing):
    content = b"\n".join(json.dumps({"text": os.urandom(50).hex()}).encode() for _ in range(20000))
    path = tmp_path / f"a.jsonl{packing}"
    packed = (gzip.compress if packing == ".gz" else zstandard.compress)(content)
    path.write_bytes(packed[: len(packed) // 2])
    found, problems = records(path)
    assert found and len(problems) == 1 and "damaged" in problems[0].reason
    assert (problems[0].path, problems[0].line) == (str(path), found[-1][0] + 1)


def test_paragraphs_of_plain_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("\none\ntwo\n\n \nthree\n%%\nfour")
    found, _ = records(path)
    assert found == [(2, b"one\ntwo\n"), (6, b"three\n%%\nfour")]
    assert [content for _, content in records(path, "%%")[0]] == [b"\none\ntwo\n\n \nthree\n", b"four"]


def test_items_of_an_array(tmp_path, monkeypatch):
    monkeypatch.setattr(text_records, "_BLOCK", 64)  # items reach across blocks
    items = [{"text": "a]b\n,c" * i, "n": [i, {}]} for i in range(50)]
    path = tmp_path / "a.json"
    path.write_text(json.dumps(items, indent=2, ensure_ascii=False))
    found, problems = records(path)
    assert [json.loads(content) for _, content in found] == items and not problems
    lines = path.read_text().split("\n")
    assert all(lines[number - 1].strip().startswith("{") for number, _ in found)
    path.write_text(json.dumps(items)[:-200])
    found, problems = records(path)
    assert 0 < len(found) < 50 and "array" in problems[0].reason


def test_lines_in_a_json_file(tmp_path):
    path = tmp_path / "a.json"
    path.write_bytes(b"\n".join(LINES))
    assert len(records(path)[0]) == 1000


def write_table(path, texts, column="text", rows=40):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.table({"id": list(range(len(texts))), column: texts}), path, row_group_size=rows)


def test_rows_of_a_table(tmp_path):
    path = tmp_path / "a.parquet"
    texts = [f"row {i} \u4e2d" for i in range(99)] + [None]
    write_table(path, texts)
    found, problems = records(path)
    assert [json.loads(content)["text"] for _, content in found] == texts and not problems
    assert [number for number, _ in found] == list(range(1, 101))
    write_table(path, [b"ok", b"\xff"])
    assert [json.loads(content)["text"] for _, content in records(path)[0]] == ["ok", "\udcff"]
    with pytest.raises(UsageError, match=r"a\.parquet: no column 'body'; found id, text"):
        list(read_chunks([path], key="body"))
    path.write_bytes(path.read_bytes()[:-9])
    assert "damaged" in records(path)[1][0].reason


def test_libraries_that_are_missing_are_named(tmp_path, monkeypatch):
    for name, library in (("a.parquet", "pyarrow"), ("a.jsonl.zst", "zstandard")):
        (tmp_path / name).write_bytes(b"x")
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(UsageError, match=f"{name}: reading .* needs `pip install '?{library}"):
            list(read_chunks([tmp_path / name]))


@pytest.mark.parametrize("kind", ["jsonl", "jsonl.gz", "jsonl.zst", "txt", "txt.gz", "json", "parquet"])
def test_reading_goes_on_from_any_chunk(tmp_path, monkeypatch, kind):
    """The chunks after each place are those of one pass: records, numbers of lines and bytes read."""
    monkeypatch.setattr(text_sources, "CHUNK_RECORDS", 7)
    monkeypatch.setattr(text_records, "_BLOCK", 256)
    texts = [f"text {i}\nof two lines" for i in range(60)]
    files = [tmp_path / f"{name}.{kind}" for name in "ab"]
    for path in files:
        content = {
            "txt": "\n\n \n".join(texts),
            "json": json.dumps([{"text": text} for text in texts], indent=1),
        }.get(kind.split(".")[0], "\n\n".join(json.dumps({"text": text}) for text in texts))
        if kind == "parquet":
            write_table(path, texts, rows=13)
        else:
            pack = {"gz": gzip.compress, "zst": zstandard.compress}.get(kind.split(".")[-1], bytes)
            path.write_bytes(pack(b"\xef\xbb\xbf" + content.encode()))
    whole = list(read_chunks(files))
    assert len(whole) >= 18 and sum(len(chunk.records) for chunk in whole) == 120
    for number, chunk in enumerate(whole):
        rest = list(read_chunks(files, start=chunk.place))
        assert [(c.records, c.place, c.problems) for c in rest] == [
            (c.records, c.place, []) for c in whole[number + 1 :]
        ]
        read = [sum(c.read for c in some) for some in (whole, whole[: number + 1], rest)]
        assert abs(read[1] + read[2] - read[0]) <= 2 * text_records._BLOCK
