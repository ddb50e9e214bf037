"""Atomic writes: whole or absent."""

import hashlib
import json

import pytest

from paddlenlp.utils.files import atomic_path, atomic_write_json, atomic_write_text, sha256_file


def test_text_is_written_and_nothing_else_stays(tmp_path):
    atomic_write_text(tmp_path / "a.txt", "zwölf 十二\n")
    assert (tmp_path / "a.txt").read_bytes() == "zwölf 十二\n".encode()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_json_is_readable_text_with_the_indent_asked_for(tmp_path):
    atomic_write_json(tmp_path / "a.json", {"b": [1, 2.5], "a": "中文"}, indent=4, sort_keys=True)
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"a": "中文", "b": [1, 2.5]}
    assert text.startswith('{\n    "a": "中文"')
    assert text.endswith("}\n")


def test_a_failed_write_leaves_the_old_content_and_no_temporary_file(tmp_path):
    atomic_write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError, match="disk"), atomic_path(tmp_path / "a.txt") as partial:
        partial.write_text("half of the new")
        assert partial.parent == tmp_path
        assert (tmp_path / "a.txt").read_text() == "old"
        raise RuntimeError("disk")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_value_that_json_cannot_hold_leaves_the_old_file(tmp_path):
    atomic_write_json(tmp_path / "a.json", {"step": 1})
    with pytest.raises(TypeError):
        atomic_write_json(tmp_path / "a.json", {"step": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"step": 1}


@pytest.mark.parametrize("size", [0, 1, (1 << 22) + 5])
def test_sha256(tmp_path, size):
    data = bytes(index % 251 for index in range(size))
    (tmp_path / "a").write_bytes(data)
    assert sha256_file(tmp_path / "a") == hashlib.sha256(data).hexdigest()
