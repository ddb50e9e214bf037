"""Runs that are killed at any file operation, again and again: with save_total_limit 1 there is always a checkpoint."""

import os
import random
import shutil
import socket

import numpy as np
import pytest

from paddlenlp.checkpoint import folder as folders
from paddlenlp.checkpoint import writing
from paddlenlp.checkpoint.folder import Checkpoint, checkpoint_folders, latest_checkpoint, rotate, settle
from paddlenlp.checkpoint.manifest import verify
from paddlenlp.checkpoint.writing import save_checkpoint

HOST = socket.gethostname()
OPERATIONS = ("rename", "replace", "fsync", "mkdir", "unlink")


class Killed(BaseException):
    """Stands for the end of the process."""


class Disk:
    """Lets the process die at an operation: that one and all after it do not happen."""

    def __init__(self, monkeypatch):
        self.left, self.killed_in = 0, set()
        monkeypatch.setattr(os, "fsync", lambda descriptor: None)
        for name in OPERATIONS:
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))
        monkeypatch.setattr(shutil, "rmtree", self.counted(shutil.rmtree))

    def counted(self, call):
        def wrapper(*args, **kwargs):
            self.left -= 1
            if self.left == 0:
                self.killed_in.add(call.__name__)
                self.left = 1  # neither do those of its way out
                raise Killed
            return call(*args, **kwargs)

        return wrapper


@pytest.fixture
def disk(monkeypatch):
    numbers = iter(range(2**22 + 1, 2**23))  # above the highest number a process can have
    for module in (folders, writing):
        monkeypatch.setattr(
            module, "hidden", lambda final, word: final.with_name(f".{final.name}.{word}-{HOST}-{next(numbers)}")
        )
    monkeypatch.setattr(os, "kill", dead)
    return Disk(monkeypatch)


def dead(pid, signal):
    raise ProcessLookupError


def life(output, disk, chance, limit):
    """One process: it resumes, and saves and rotates until it dies. The step of the newest checkpoint that it finished
    and that the disk kept."""
    disk.left = 0
    found = latest_checkpoint(output)
    step = finished = Checkpoint(found).step if found else 0
    disk.left = chance.randrange(1, 90)
    try:
        settle(output)
        while step < 40:
            step += 1
            tensors = {"model": {"w": np.full([2], step, np.float32)}}
            folder = save_checkpoint(output, step, tensors, {"trainer_state.json": {"global_step": step}})
            if chance.random() < 0.1:  # a disk that does not keep what it was given
                os.truncate(folder / "model-00001-of-00001.safetensors", 3)
                rotate(output, limit, keep=[folder])
                break
            finished = step
            rotate(output, limit, keep=[folder])
    except Killed:
        pass
    return finished


@pytest.mark.parametrize("seed", range(200))
def test_there_is_always_a_checkpoint(tmp_path, disk, seed):
    chance = random.Random(seed)
    limit = chance.choice([1, 1, 2])
    for _ in range(4):
        promised = life(tmp_path, disk, chance, limit)
        disk.left = 0
        found = latest_checkpoint(tmp_path)
        if promised:
            assert found is not None and Checkpoint(found).step >= promised
            assert Checkpoint(found).tensors("model")["w"][0] == Checkpoint(found).step
        for folder in checkpoint_folders(tmp_path):  # what `find_resume` does with them
            if folder != found and Checkpoint(folder).step > (Checkpoint(found).step if found else 0):
                folders.set_aside(folder, verify(folder))


def test_the_schedules_kill_at_all_kinds_of_operations(tmp_path, disk):
    for seed in range(40):
        life(tmp_path / str(seed % 4), disk, random.Random(seed), 1)
    assert disk.killed_in >= {"rename", "replace", "mkdir", "rmtree", "<lambda>"}  # the last one: syncing
