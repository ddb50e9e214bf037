"""Room on a disk under quotas, and messages about writes that fail."""

import errno
import os
import shutil
from collections import namedtuple

import pytest

from paddlenlp.utils import disk
from paddlenlp.utils.disk import free_bytes, room, write_failed
from paddlenlp.utils.errors import UsageError


@pytest.fixture
def usage(monkeypatch):
    """usage(free): what the file system says."""
    kind = namedtuple("Usage", "total used free")
    return lambda free: monkeypatch.setattr(shutil, "disk_usage", lambda path: kind(10**9, 10**9 - free, free))


def test_room_of_a_folder_that_is_not_there_yet(tmp_path):
    found = shutil.disk_usage(tmp_path).free
    assert abs(free_bytes(tmp_path / "not" / "yet") - found) < 2**30


@pytest.mark.parametrize(
    "user, group, free",
    [
        ((0, 0, 1), (0, 0, 1), 9000),  # no limit is set
        ((4, 1000, 1), None, 3096),
        ((4, 1000, 0), None, 9000),  # the kernel does not vouch for the limits
        ((4, 5000, 1), None, 0),
        ((40, 0, 1), (2, 1024, 1), 1024),
        (None, None, 9000),
    ],
)
def test_a_quota_leaves_less_than_the_disk(tmp_path, usage, monkeypatch, user, group, free):
    """Quotas: limit in blocks of 1024 bytes, bytes used, whether the limits hold; by kind."""
    quotas = {disk._USER: user, disk._GROUP: group}

    def known(path, kind):
        if quotas[kind] is None:
            return None
        limit, used, valid = quotas[kind]
        return disk._Quota(hard_blocks=limit, used_bytes=used, valid=valid)

    usage(9000)
    monkeypatch.setattr(disk, "_quota", known)
    assert free_bytes(tmp_path) == free


def test_asking_for_quotas_where_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert disk._quota(tmp_path, disk._USER) is None
    assert disk._quota(tmp_path / "absent", disk._USER) is None


@pytest.mark.parametrize(
    "number, advice",
    [
        (errno.ENOSPC, "Free some space"),
        (errno.EDQUOT, "quota is used up"),
        (errno.EROFS, "mounted read-only"),
        (errno.EIO, "the system's log"),
        (errno.EACCES, "can be written to"),
    ],
)
def test_message_has_path_cause_needed_free_and_what_to_do(usage, number, advice):
    usage(5000)
    error = write_failed("/tmp/x", OSError(number, os.strerror(number), "/tmp/.x.partial"), 123456, "the model")
    assert isinstance(error, UsageError)
    start = f"/tmp/x: cannot write the model: {os.strerror(number)} (/tmp/.x.partial). "
    assert str(error).startswith(f"{start}It needs 123,456 bytes, 5,000 bytes are free. ")
    assert advice in str(error)


def test_message_where_less_is_known(usage, monkeypatch):
    usage(5000)
    assert "/tmp/x: cannot write this file: odd. 5,000 bytes are free. " in str(write_failed("/tmp/x", OSError("odd")))

    def fail(path):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(shutil, "disk_usage", fail)
    assert room("/tmp/x") == "how many bytes are free cannot be found out (Input/output error)"
