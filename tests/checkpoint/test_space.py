"""Room for the checkpoints of a run: known before it, made when it is short."""

import numpy as np
import pytest

from paddlenlp.checkpoint import space
from paddlenlp.checkpoint.folder import checkpoint_folders
from paddlenlp.checkpoint.space import Plan, check_run_fits, folder_bytes, make_room
from paddlenlp.checkpoint.writing import save_checkpoint
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger


@pytest.fixture
def free(monkeypatch):
    """free(n): let so many bytes be free."""
    return lambda size: monkeypatch.setattr(space, "free_bytes", lambda path: size)


def save(folder, step):
    return save_checkpoint(folder, step, {"model": {"w": np.zeros([10], np.float32)}}, {})


def names(folder):
    return [path.name for path in checkpoint_folders(folder)]


@pytest.mark.parametrize(
    "plan, needed",
    [
        (Plan(to_come=9, most=3), 300),
        (Plan(to_come=2, most=3), 200),
        (Plan(to_come=9, most=3, here=1), 200),
        (Plan(to_come=9, most=3, here=2), 100),
        (Plan(to_come=9, most=3, here=7), 100),
        (Plan(to_come=1, most=3, here=1), 100),
        (Plan(to_come=None, most=2), 200),
        (Plan(to_come=9, most=None), 100),
        (Plan(to_come=0, most=3), 0),
    ],
)
def test_what_lies_beside_each_other_must_fit(tmp_path, free, plan, needed):
    free(needed)
    check_run_fits(tmp_path, 100, plan)
    if needed:
        free(needed - 1)
        with pytest.raises(UsageError, match=rf"{tmp_path}: .* needs {needed} bytes.*, {needed - 1} are free"):
            check_run_fits(tmp_path, 100, plan)


def test_the_checkpoints_that_go_after_the_first_one_make_room_for_the_next(tmp_path, free):
    (tmp_path / "old/sub").mkdir(parents=True)
    for name, size in (("a", 30), ("sub/b", 120)):
        (tmp_path / "old" / name).write_bytes(bytes(size))
    assert folder_bytes(tmp_path / "old") == 150
    plan = Plan(to_come=9, most=3, to_go=[tmp_path / "old"])
    free(150)
    check_run_fits(tmp_path, 100, plan)
    free(149)
    with pytest.raises(UsageError, match="needs 300 bytes for its checkpoints, 299 are free"):
        check_run_fits(tmp_path, 100, plan)
    free(99)  # the first is written beside them
    with pytest.raises(UsageError, match="needs 100 bytes, 99 are free"):
        check_run_fits(tmp_path, 100, plan._replace(to_come=1))


def test_where_all_are_kept_a_warning_says_how_many_fit(tmp_path, free, monkeypatch):
    heard = []
    monkeypatch.setattr(logger, "warning", heard.append)
    free(350)
    check_run_fits(tmp_path, 100, Plan(to_come=3, most=None))
    check_run_fits(tmp_path, 100, Plan(to_come=None, most=None))
    assert heard == []
    check_run_fits(tmp_path, 100, Plan(to_come=4, most=None))
    assert "4 checkpoints of 100 bytes" in heard[0] and "room for 3" in heard[0] and "save_total_limit" in heard[0]


@pytest.mark.parametrize(
    "limit, size, left",
    [
        (3, 10, ["checkpoint-2", "checkpoint-3"]),
        (2, 10, ["checkpoint-3"]),
        (3, 100, ["checkpoint-1", "checkpoint-2", "checkpoint-3"]),
        (1, 10, ["checkpoint-1", "checkpoint-2", "checkpoint-3"]),
        (None, 10, ["checkpoint-1", "checkpoint-2", "checkpoint-3"]),
    ],
)
def test_room_is_made_only_by_what_would_go_anyway(tmp_path, free, limit, size, left):
    for step in (1, 2, 3):
        save(tmp_path, step)
    free(size)
    make_room(tmp_path, 100, limit)
    assert names(tmp_path) == left


def test_no_room_is_made_beside_a_damaged_checkpoint_nor_by_the_best(tmp_path, free):
    for step in (1, 2, 3):
        save(tmp_path, step)
    free(0)
    make_room(tmp_path, 100, 2, keep=[tmp_path / "checkpoint-1"])
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3"]
    (tmp_path / "checkpoint-3" / "manifest.json").write_text("{}")
    make_room(tmp_path, 100, 2)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3"]
