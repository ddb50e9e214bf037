"""Text files become JSON lines; words of Chinese text are set apart; many files are worked on in order."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from paddlenlp.data.file_pool import map_files, targets_in
from paddlenlp.data.text_to_json import JsonLines, text_to_json
from paddlenlp.data.word_segmentation import segment, segment_files
from paddlenlp.utils.errors import UsageError


@pytest.fixture
def texts(tmp_path):
    folder = tmp_path / "in"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("first line\nsecond line\n\nshort\n\nanother document\n", encoding="utf-8")
    with gzip.open(folder / "deep" / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("学而时习之，不亦说乎？有朋自远方来\n\n")
    (folder / "deep" / "c.txt").write_bytes(b"good text here\n\nbad \xff text here\n")
    (folder / "picture.png").touch()
    return folder


def records(path, key="text"):
    return [json.loads(line)[key] for line in Path(path).read_text(encoding="utf-8").splitlines()]


ALL = ["first line\nsecond line\n", "another document\n", "学而时习之，不亦说乎？有朋自远方来\n", "good text here\n"]


@pytest.mark.parametrize("workers", [1, 2])
def test_in_order(texts, tmp_path, workers):
    done = text_to_json(str(texts), tmp_path / "out" / "all.jsonl", JsonLines(), workers=workers, seed=None)
    assert records(tmp_path / "out" / "all.jsonl") == ALL
    assert (done.documents, done.short) == (4, 1) and "c.txt:3: not UTF-8: byte 0xff" in str(done.problems[0])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["all.jsonl"]
    assert sorted(path.name for path in texts.rglob("*") if path.is_file()) == [
        "a.txt",
        "b.txt.gz",
        "c.txt",
        "picture.png",
    ]


def test_options(texts, tmp_path):
    path = tmp_path / "all.jsonl"
    text_to_json(str(texts), path, JsonLines(), seed=1)
    first = path.read_bytes()
    assert sorted(records(path)) == sorted(ALL) and records(path) != ALL
    text_to_json(str(texts), path, JsonLines(), seed=1)
    assert path.read_bytes() == first
    text_to_json(str(texts / "a.txt"), path, JsonLines("body", "second line", 5), seed=None)
    assert records(path, "body") == ["first line\n", "\nshort\n\nanother document\n"]
    text_to_json(str(texts), tmp_path / "each", JsonLines(min_doc_length=0), merge=False)
    assert records(tmp_path / "each" / "a.txt.jsonl") == [ALL[0], "short\n", ALL[1]]
    assert records(tmp_path / "each" / "deep" / "b.txt.gz.jsonl") == [ALL[2]]


def test_nothing_to_write(texts, tmp_path):
    with pytest.raises(UsageError, match="no document of more than 99 characters in .*; 4 are shorter|5 are shorter"):
        text_to_json(str(texts), tmp_path / "all.jsonl", JsonLines(min_doc_length=99))
    (tmp_path / "x.jsonl").write_text("{}\n")
    with pytest.raises(UsageError, match="no .txt files in .*; found x.jsonl"):
        text_to_json(str(tmp_path / "x.jsonl"), tmp_path / "all.jsonl", JsonLines())
    assert not (tmp_path / "all.jsonl").exists()


def test_sentences_and_words():
    cut = list
    assert segment("天地。。。  玄黄！宇宙；\n\n洪荒", cut) == "天 地 。\n玄 黄 ！\n宇 宙 ；\n洪 荒\n"
    assert segment("说乎？？好", cut) == "说 乎 ？\n好\n"


def test_segmented_files(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.jsonl").write_text(
        '{"text": "天地玄黄。宇宙洪荒"}\n{"other": 1}\n{"text": "学习"}\n', encoding="utf-8"
    )
    (source / "w.json").write_text('[{"title": "t", "content": "我们学习"}]', encoding="utf-8")
    (one,) = segment_files(str(source), tmp_path / "out", workers=2)
    text = one.target.read_text(encoding="utf-8")
    assert one.target == tmp_path / "out" / "a.jsonl.txt" and one.documents == 2
    first, second, _ = text.split("\n\n")
    assert first.replace(" ", "") == "天地玄黄。\n宇宙洪荒" and second == "学习" and " " in first
    assert "a.jsonl:2: no key 'text'" in str(one.problems[0])
    (again,) = segment_files(str(source), tmp_path / "out")
    assert again.kept and one.target.read_text(encoding="utf-8") == text
    (wudao,) = segment_files(str(source), tmp_path / "out", "wudao")
    assert wudao.target.read_text(encoding="utf-8") == "我们 学习\n\n"
    with pytest.raises(UsageError, match="no .json files in"):
        segment_files(str(source / "a.jsonl"), tmp_path / "out", "wudao")
    if not _has_lac():
        with pytest.raises(UsageError, match="cn_seg_func lac needs"):
            segment_files(str(source), tmp_path / "other", cn_seg_func="lac")


def _has_lac():
    try:
        import LAC  # noqa: F401
    except ImportError:
        return False
    return True


def test_progress_and_places(tmp_path, capsys):
    files = []
    for name in ("a", "d/b", "d/c"):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("12345")
        files.append(path)
    pairs = targets_in(tmp_path / "out", files, ".x")
    assert [target.relative_to(tmp_path).as_posix() for _, target in pairs] == ["out/a.x", "out/d/b.x", "out/d/c.x"]
    assert list(map_files(lambda source, target: source.name + target.suffix, pairs, log_interval=2)) == [
        "a.x",
        "b.x",
        "c.x",
    ]
    err = capsys.readouterr().err
    assert "2 of 3 files" in err and "1 of 3" not in err and "3 of 3" not in err
