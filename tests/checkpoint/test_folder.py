"""Checkpoints: layout on disk, atomicity at every step of a save, verification, choice of the newest, rotation."""

import errno
import json
import os
import shutil
import socket
import subprocess
import sys
from collections import namedtuple

import numpy as np
import pytest

from paddlenlp.checkpoint import folder as folders
from paddlenlp.checkpoint import writing
from paddlenlp.checkpoint.claim import LOCK, claim
from paddlenlp.checkpoint.folder import (
    Checkpoint,
    checkpoint_folders,
    get_last_checkpoint,
    latest_checkpoint,
    remove_checkpoint,
    rotate,
    set_aside,
    settle,
)
from paddlenlp.checkpoint.manifest import verify
from paddlenlp.checkpoint.space import check_free_space, checkpoint_bytes
from paddlenlp.checkpoint.writing import save_checkpoint
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.log import logger

HOST = socket.gethostname()


def groups(value=0.0):
    return {
        "model": {"w": np.full([4, 3], value, np.float32), "b": np.full([3], value, np.float32)},
        "optimizer": {"w/moment1_0": np.full([4, 3], value + 1, np.float32)},
        "master_weights": {},
    }


def save(folder, step, value=0.0, **options):
    return save_checkpoint(folder, step, groups(value), {"trainer_state.json": {"global_step": step}}, **options)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name != LOCK)


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch):
    """No test here takes the power away, and syncing is what takes time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def messages(monkeypatch):
    heard = []
    monkeypatch.setattr(logger, "warning", heard.append)
    return heard


@pytest.fixture
def dead_pid():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_layout_follows_the_unified_checkpoint(tmp_path):
    folder = save(tmp_path / "out", 20, write_extra=lambda path: (path / "config.json").write_text("{}"))
    assert folder == tmp_path / "out" / "checkpoint-20"
    assert names(folder) == [
        "config.json",
        "manifest.json",
        "model-00001-of-00001.safetensors",
        "model.safetensors.index.json",
        "optimizer-00001-of-00001.safetensors",
        "optimizer.safetensors.index.json",
        "trainer_state.json",
    ]
    index = json.loads((folder / "optimizer.safetensors.index.json").read_text())
    assert index["master_weights"] is False
    assert "master_weights" not in json.loads((folder / "model.safetensors.index.json").read_text())
    assert names(tmp_path / "out") == ["checkpoint-20"]


def test_manifest_names_every_file_with_size_and_hash(tmp_path):
    folder = save(tmp_path, 3, write_extra=lambda path: (path / "sub").mkdir() or (path / "sub" / "x").write_text("y"))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["step"] == 3
    assert set(manifest["files"]) == {name for name in names(folder) if "." in name and name != "manifest.json"} | {
        "sub/x"
    }
    assert manifest["files"]["sub/x"] == {
        "size": 1,
        "sha256": "a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa",
    }


def test_parts_are_read_back(tmp_path):
    tensors = {**groups(2.0), "master_weights": {"w": np.ones([4, 3], np.float32)}}
    saved = Checkpoint(save_checkpoint(tmp_path, 7, tensors, {"trainer_state.json": {"loss": float("nan"), "step": 7}}))
    assert saved.step == 7
    assert saved.state("trainer_state.json")["step"] == 7
    np.testing.assert_array_equal(saved.tensors("model")["w"], tensors["model"]["w"])
    assert saved.has("master_weights")
    assert json.loads((saved.folder / "optimizer.safetensors.index.json").read_text())["master_weights"] is True
    assert not Checkpoint(save(tmp_path, 8)).has("master_weights")
    with pytest.raises(UsageError, match="scaler.json: cannot read this part"):
        saved.state("scaler.json")


def test_folder_that_is_not_named_like_a_checkpoint_has_no_step(tmp_path):
    with pytest.raises(UsageError, match="expected a folder named checkpoint-<step>"):
        _ = Checkpoint(tmp_path).step


DAMAGE = {
    "bit flip": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "truncated": lambda data: data[:-2],
    "empty": lambda data: b"",
    "zeroed": lambda data: bytes(len(data)),
}


@pytest.mark.parametrize("damage", [*DAMAGE, "deleted"])
def test_damage_to_any_file_is_found_and_named(tmp_path, damage):
    folder = save(tmp_path, 1)
    assert verify(folder) == []
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        if damage == "deleted":
            path.unlink()
        else:
            path.write_bytes(DAMAGE[damage](whole))
        if damage == "bit flip" and path.name == "manifest.json":
            path.write_bytes(whole.replace(b'"version": 1', b'"version": 9'))
        problems = verify(folder)
        assert len(problems) == 1, (path.name, problems)
        assert problems[0].startswith(path.name), (path.name, problems)
        path.write_bytes(whole)
    assert verify(folder) == []


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x"])
def test_manifest_cannot_name_files_outside(tmp_path, name):
    folder = save(tmp_path, 1)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = {"size": 0, "sha256": ""}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert "outside of the checkpoint" in verify(folder)[0]


def test_renamed_checkpoint_is_refused(tmp_path):
    os.rename(save(tmp_path, 1), tmp_path / "checkpoint-9")
    assert "written for step 1" in verify(tmp_path / "checkpoint-9")[0]


def test_newest_is_chosen_by_step_not_by_time_or_name(tmp_path):
    for step in (100, 9, 20):
        save(tmp_path, step)
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-100"
    assert get_last_checkpoint(str(tmp_path)) == str(tmp_path / "checkpoint-100")


def test_damaged_ones_are_passed_over_with_file_and_reason(tmp_path, messages):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "checkpoint-3" / "manifest.json").unlink()
    (tmp_path / "checkpoint-2" / "model-00001-of-00001.safetensors").write_bytes(b"")
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"
    assert len(messages) == 2
    assert "checkpoint-3" in messages[0] and "manifest.json is missing" in messages[0]
    assert "checkpoint-2" in messages[1] and "model-00001-of-00001.safetensors has 0 bytes" in messages[1]
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_no_checkpoint(tmp_path):
    (tmp_path / "checkpoint-x").mkdir()
    (tmp_path / "checkpoint-5").write_text("a file")
    assert latest_checkpoint(tmp_path) is None
    assert latest_checkpoint(tmp_path / "absent") is None


def test_saving_again_replaces(tmp_path):
    save(tmp_path, 5, value=1.0, write_extra=lambda path: (path / "old").write_text(""))
    folder = save(tmp_path, 5, value=2.0)
    assert verify(folder) == []
    assert Checkpoint(folder).tensors("model")["b"].tolist() == [2.0] * 3
    assert not (folder / "old").exists()
    assert names(tmp_path) == ["checkpoint-5"]


def test_a_damaged_one_is_not_replaced_but_set_aside(tmp_path):
    (save(tmp_path, 5) / "manifest.json").unlink()
    assert verify(save(tmp_path, 5)) == []
    assert names(tmp_path) == ["checkpoint-5", "checkpoint-5.rejected"]


class Stop(Exception):
    """Stands for the end of the process at some call."""


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("cut", range(60))
def test_killed_at_any_file_operation_there_is_always_a_whole_checkpoint(
    tmp_path, monkeypatch, dead_pid, existing, cut
):
    """Cuts a save at its n-th durable operation, without any clean-up, and looks as the next process would."""
    save(tmp_path, 1, value=1.0)
    if existing:
        save(tmp_path, 2, value=2.0)
    left = [cut]

    def counted(call):
        def wrapper(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Stop
            return call(*args, **kwargs)

        return wrapper

    with monkeypatch.context() as patched:
        for name in ("rename", "replace", "fsync", "mkdir", "unlink"):
            patched.setattr(os, name, counted(getattr(os, name)))
        patched.setattr(shutil, "rmtree", counted(shutil.rmtree))
        for module in (folders, writing):
            patched.setattr(
                module, "hidden", lambda final, word: final.with_name(f".{final.name}.{word}-{HOST}-{dead_pid}")
            )
        try:
            save(tmp_path, 2, value=3.0)
            finished = True
        except Stop:
            finished = False
    found = latest_checkpoint(tmp_path)
    assert verify(found) == []
    value = Checkpoint(found).tensors("model")["b"][0]
    assert value in ({2.0, 3.0} if existing else {1.0, 3.0})
    if finished:
        assert value == 3.0
    save(tmp_path, 4)
    assert all(name.startswith("checkpoint-") for name in names(tmp_path))


def test_the_kill_test_cuts_before_and_after_the_end_of_a_save(tmp_path, monkeypatch):
    calls = []
    for name in ("rename", "replace", "fsync", "mkdir", "unlink"):
        call = getattr(os, name)
        monkeypatch.setattr(os, name, lambda *args, call=call, **kwargs: calls.append(1) or call(*args, **kwargs))
    save(tmp_path, 2)
    assert 20 < len(calls) < 60


def test_everything_is_synced_before_the_manifest_and_that_before_the_final_rename(tmp_path, monkeypatch):
    events = []
    target = {"replace": os.replace, "rename": os.rename}

    def sync(descriptor):
        events.append(("sync", os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))))

    def note(kind):
        return lambda source, to: events.append((kind, os.path.basename(to))) or target[kind](source, to)

    monkeypatch.setattr(os, "fsync", sync)
    for kind in target:
        monkeypatch.setattr(os, kind, note(kind))
    folder = save(tmp_path, 6, write_extra=lambda path: (path / "tokenizer.json").write_text("{}"))
    manifest = events.index(("replace", "manifest.json"))
    for name in names(folder):
        if name != "manifest.json":
            assert ("sync", name) in events[:manifest]
    assert events[manifest - 1][0] == "sync" and events[manifest - 1][1].startswith(".manifest.json.")
    assert events[-2:] == [("rename", "checkpoint-6"), ("sync", tmp_path.name)]
    assert ("sync", f".checkpoint-6.partial-{HOST}-{os.getpid()}") in events[manifest:-2]


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
def test_failed_write_is_one_error_and_leaves_earlier_checkpoints(tmp_path, monkeypatch, error):
    save(tmp_path, 2, value=2.0)

    def fail(folder):
        raise OSError(error, os.strerror(error), str(folder / "x"))

    with pytest.raises(
        UsageError, match=r"checkpoint-2: cannot write.*needs [\d,]+ bytes, [\d,]+ bytes are free"
    ) as caught:
        save(tmp_path, 2, value=3.0, write_extra=fail)
    assert os.strerror(error) in str(caught.value)
    assert names(tmp_path) == ["checkpoint-2"]
    assert Checkpoint(latest_checkpoint(tmp_path)).tensors("model")["b"][0] == 2.0


def test_failed_rename_puts_the_replaced_one_back(tmp_path, monkeypatch):
    save(tmp_path, 2, value=2.0)
    rename = os.rename

    def fail(source, target):
        if ".partial-" in str(source):
            raise OSError(errno.EIO, "disk")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail)
    with pytest.raises(UsageError, match="disk"):
        save(tmp_path, 2, value=3.0)
    assert names(tmp_path) == ["checkpoint-2"]
    assert verify(tmp_path / "checkpoint-2") == []


def test_error_in_the_callers_own_writer_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        save(tmp_path, 2, write_extra=lambda path: 1 / 0)
    assert names(tmp_path) == []


def test_too_little_space_is_seen_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "total used free")(10**6, 10**6 - 7, 7))
    with pytest.raises(UsageError, match=r"a checkpoint needs 4,194,412 bytes, 7 are free"):
        save(tmp_path, 2)
    assert names(tmp_path) == []
    with pytest.raises(UsageError, match="needs 8 bytes, 7 are free"):
        check_free_space(tmp_path, 8)
    check_free_space(tmp_path / "not" / "yet", 7)


def test_estimate_covers_what_is_written(tmp_path):
    tensors = {"model": {f"layer.{index}.weight": np.zeros([64, 64], np.float32) for index in range(500)}}
    folder = save_checkpoint(tmp_path, 1, tensors, {"rng_state.json": "9" * 20000})
    written = sum(path.stat().st_size for path in folder.iterdir())
    assert written <= checkpoint_bytes(tensors) <= written + (1 << 22)


def test_unwritable_output_dir(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write the checkpoint"):
        save(tmp_path / "file" / "out", 1)


HOLDER = """
import sys
from paddlenlp.checkpoint.claim import claim
print(claim(sys.argv[1]), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def other_run(tmp_path):
    """A process that writes checkpoints into the same folder; a function to kill it."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "True\n"
    process.end = lambda: (process.kill(), process.wait())
    yield process
    process.end()
    process.stdin.close()
    process.stdout.close()


def test_leftovers_of_dead_processes_go(tmp_path, dead_pid):
    for word in ("partial", "removed"):
        (tmp_path / f".checkpoint-1.{word}-{HOST}-{dead_pid}").mkdir()
    save(tmp_path, 4)
    assert names(tmp_path) == ["checkpoint-4"]


def test_leftovers_of_other_hosts_go_when_no_other_run_lives(tmp_path, other_run, dead_pid, messages):
    """Of a process elsewhere, or one whose number now is another's, only the lock tells whether it lives."""
    left = [f".checkpoint-1.partial-far-away.example.org-{dead_pid}", f".checkpoint-3.partial-{HOST}-{os.getppid()}"]
    for name in left:
        (tmp_path / name).mkdir()
    (tmp_path / f".checkpoint-2.partial-{HOST}-{dead_pid}").mkdir()
    save(tmp_path, 4)
    assert names(tmp_path) == [*left, "checkpoint-4"]
    assert len(messages) == 1 and f"process {other_run.pid} on {HOST}" in messages[0]
    other_run.end()
    save(tmp_path, 5)
    assert names(tmp_path) == ["checkpoint-4", "checkpoint-5"]
    assert len(messages) == 1


def test_age_of_leftovers_does_not_matter(tmp_path, other_run, dead_pid):
    for age in (0, 2**33):
        left = tmp_path / f".checkpoint-1.partial-elsewhere-{dead_pid}"
        left.mkdir(exist_ok=True)
        os.utime(left, (age, age))
        settle(tmp_path)
        assert left.exists()
    other_run.end()
    settle(tmp_path)
    assert not left.exists()


def test_a_replacement_cut_off_on_another_host_is_undone(tmp_path, dead_pid):
    os.rename(save(tmp_path, 2, value=2.0), tmp_path / f".checkpoint-2.replaced-elsewhere-{dead_pid}")
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-2"


def test_one_folder_at_a_time_is_claimed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    assert claim(tmp_path / "a") and claim(tmp_path / "a")
    before = len(os.listdir("/proc/self/fd"))
    assert claim(tmp_path / "b")
    assert len(os.listdir("/proc/self/fd")) == before
    assert not claim(tmp_path / "absent")


def test_damaged_one_is_set_aside_under_a_name_of_its_own(tmp_path, messages):
    for expected in ("checkpoint-2.rejected", "checkpoint-2.rejected-2", "checkpoint-2.rejected-3"):
        folder = save(tmp_path, 2)
        (folder / "optimizer-00001-of-00001.safetensors").write_bytes(b"")
        assert set_aside(folder, verify(folder)) == tmp_path / expected
        assert "optimizer-00001-of-00001.safetensors has 0 bytes" in messages[-1] and expected in messages[-1]
    for step in (2, 3):
        save(tmp_path, step)
    assert rotate(tmp_path, 1) == [tmp_path / "checkpoint-2"]
    assert names(tmp_path) == [f"checkpoint-2.rejected{number}" for number in ("", "-2", "-3")] + ["checkpoint-3"]
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-3"


def test_on_a_disk_that_cannot_be_written_to_nothing_is_raised(tmp_path, monkeypatch, messages):
    for step in (1, 2):
        save(tmp_path, step)

    def fail(source, target):
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(os, "rename", fail)
    assert set_aside(tmp_path / "checkpoint-2", ["bad"]) is None
    rotate(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-2"]
    assert "bad" in messages[0] and all("Read-only file system" in message for message in messages)
    assert len(messages) == 2


def test_rotation_removes_the_oldest_by_step(tmp_path):
    for step in (100, 20, 9):
        save(tmp_path, step)
    assert rotate(tmp_path, None) == []
    assert rotate(tmp_path, 0) == []
    assert rotate(tmp_path, 3) == []
    assert rotate(tmp_path, 2) == [tmp_path / "checkpoint-9"]
    assert names(tmp_path) == ["checkpoint-100", "checkpoint-20"]


def test_rotation_protects_the_best(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    rotate(tmp_path, 1, keep=[None, str(tmp_path / "checkpoint-1")])
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3"]


def test_limit_one_never_leaves_none(tmp_path, messages):
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / "checkpoint-2" / "model-00001-of-00001.safetensors").write_bytes(b"damaged")
    assert rotate(tmp_path, 1) == []
    assert "checkpoint-2 is not whole: model-00001-of-00001.safetensors" in messages[0]
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-1"


def test_rotation_leaves_folders_that_are_no_checkpoints(tmp_path):
    (tmp_path / "checkpoint-1").mkdir()
    save(tmp_path, 2)
    save(tmp_path, 3)
    rotate(tmp_path, 1)
    assert names(tmp_path) == ["checkpoint-1", "checkpoint-3"]


def test_removal_is_never_half_done_under_the_old_name(tmp_path, monkeypatch):
    folder = save(tmp_path, 2)
    monkeypatch.setattr(shutil, "rmtree", lambda path, **options: None)
    remove_checkpoint(str(folder))
    assert names(tmp_path) == [f".checkpoint-2.removed-{HOST}-{os.getpid()}"]
    assert checkpoint_folders(str(tmp_path)) == []
