"""Maps without descriptors: what they hold, that they hold no descriptor, and what is refused."""

import gc
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from paddlenlp.data import MMapIndexedDatasetBuilder
from paddlenlp.data.mapped import map_file, map_npy, release_pages


def descriptors():
    return len(os.listdir("/proc/self/fd"))


def mapped(name):
    with open("/proc/self/maps") as file:
        return sum(name in line for line in file)


def test_a_map_holds_the_file_and_no_descriptor(tmp_path):
    values = np.arange(5000, dtype=np.int32)
    (tmp_path / "a.bin").write_bytes(values.tobytes() + b"xy")
    before = descriptors()
    found = map_file(tmp_path / "a.bin", np.int32)
    part = found[10:20]
    assert descriptors() == before
    assert np.array_equal(found, values) and not found.flags.writeable
    os.remove(tmp_path / "a.bin")
    del found
    gc.collect()
    assert part.tolist() == list(range(10, 20)) and mapped("a.bin")  # a view keeps the map


@pytest.mark.skipif(not os.path.isdir("/proc/self"), reason="needs /proc")
def test_a_map_ends_with_its_last_view(tmp_path):
    (tmp_path / "only_here.bin").write_bytes(bytes(10000))
    found = map_file(tmp_path / "only_here.bin")
    view = found[5:]
    assert mapped("only_here.bin") == 1
    del found
    gc.collect()
    assert mapped("only_here.bin") == 1
    del view
    gc.collect()
    assert mapped("only_here.bin") == 0


def test_an_empty_file_is_an_empty_array(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"")
    assert map_file(tmp_path / "a.bin").shape == (0,)


@pytest.mark.parametrize("array", [np.arange(12).reshape(3, 4), np.ones((4, 3), np.float32, order="F"), np.zeros(0)])
def test_npy_files(tmp_path, array):
    np.save(tmp_path / "a.npy", array)
    found = map_npy(tmp_path / "a.npy")
    assert found.dtype == array.dtype and np.array_equal(found, array)


def test_npy_files_that_are_refused(tmp_path):
    np.save(tmp_path / "objects.npy", np.array([{}], object))
    np.save(tmp_path / "cut.npy", np.arange(100))
    os.truncate(tmp_path / "cut.npy", 500)
    (tmp_path / "none.npy").write_bytes(b"nothing of the kind")
    problems = {"objects": "Python objects", "cut": "should hold 100 numbers", "none": "not a whole .npy"}
    for name, words in problems.items():
        with pytest.raises(ValueError, match=words):
            map_npy(tmp_path / f"{name}.npy")


MANY = """
import resource, sys
from hashlib import sha256
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[2]),) * 2)
from paddlenlp.data import build_train_valid_test_datasets
prefixes = [word for number in range(500) for word in (1.0 + number % 3, f"{sys.argv[1]}/{number}")]
train, _, _ = build_train_valid_test_datasets(prefixes, "mmap", "1,0,0", (1000, 0, 0), 8, 1)
digest = sha256()
for index in range(len(train)):
    digest.update(train[index]["text"].tobytes())
print(digest.hexdigest())
"""


def test_500_datasets_need_few_descriptors(tmp_path):
    for number in range(500):
        builder = MMapIndexedDatasetBuilder(str(tmp_path / str(number)), np.uint16)
        builder.add_item(np.arange(40) + number)
        builder.end_document()
        builder.finalize()

    def read(limit):
        command = [sys.executable, "-c", MANY, str(tmp_path), str(limit)]
        done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.split()[-1]

    assert read(64) == read(900)


def resident_pages():
    """Bytes of mapped files that count as memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_pages_are_given_back_and_come_again(tmp_path):
    values = np.arange(1 << 22)  # 32 MB
    np.save(tmp_path / "a.npy", values)
    mapped = map_npy(tmp_path / "a.npy")
    before = resident_pages()
    assert mapped.sum() == values.sum() and resident_pages() - before > 30e6
    release_pages(mapped[1000 : 1 << 21])
    assert resident_pages() - before < 20e6
    assert np.array_equal(mapped, values)


def test_memory_that_is_no_map_is_left_alone():
    values = np.arange(100_000)
    release_pages(values)
    release_pages(values[:0])
    assert np.array_equal(values, np.arange(100_000))
