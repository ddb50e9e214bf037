"""Safetensors files: the library's bytes, exact values, shards, partial reads, clear errors."""

import json
import os
import re

import numpy as np
import paddle
import pytest
import safetensors.numpy
import safetensors.paddle

from paddlenlp.utils import tensor_files
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import sha256_file
from paddlenlp.utils.reading import bytes_read
from paddlenlp.utils.retries import retries
from paddlenlp.utils.tensor_files import LazyTensor, TensorFiles, write_shards, write_tensor_file

BITS = np.array([0x3F80, 0xC000, 0x7F80, 0x0001, 0x8000, 0x4049], np.uint16)  # 1, -2, inf, denormal, -0, 3.140625


@pytest.fixture(scope="module")
def tensors():
    rng = np.random.RandomState(0)
    return {
        "embed.weight": paddle.to_tensor(rng.randn(7, 5).astype("float32")),
        "half": paddle.to_tensor(rng.randn(3, 4).astype("float16")),
        "brain": paddle.to_tensor(BITS.reshape(2, 3)),
        "ids": paddle.to_tensor(rng.randint(-9, 9, [4]), dtype="int64"),
        "small": paddle.to_tensor(rng.randint(-9, 9, [3]), dtype="int8"),
        "flag": paddle.to_tensor([True, False, True]),
        "scalar": paddle.to_tensor(2.5),
        "empty": paddle.zeros([0, 3]),
    }


def same_bits(left, right):
    return left.dtype == right.dtype and left.shape == right.shape and left.numpy().tobytes() == right.numpy().tobytes()


@pytest.mark.parametrize("name", ["a", "ab", "abc", "中", '"\\ \n'])
def test_bytes_equal_those_of_the_safetensors_library(tmp_path, tensors, name):
    tensors = {**tensors, name: paddle.ones([2])}
    write_tensor_file(tmp_path / "ours.safetensors", tensors)
    safetensors.paddle.save_file(tensors, tmp_path / "lib.safetensors", metadata={"format": "np"})
    assert (tmp_path / "ours.safetensors").read_bytes() == (tmp_path / "lib.safetensors").read_bytes()


def test_every_type_comes_back_bitwise(tmp_path, tensors):
    write_shards(tmp_path, "model", tensors)
    files = TensorFiles(tmp_path)
    assert list(files) == sorted(tensors)
    assert files.keys() == tensors.keys()
    assert files.metadata == {"format": "np"}
    for name, value in tensors.items():
        assert same_bits(files.tensor(name), value), name
        assert files.shape(name) == tuple(value.shape)
    assert files.dtype("brain") == "BF16"
    assert files.dtype("half") == "F16"


def test_bf16_reads_as_float32_values_or_bits(tmp_path):
    write_tensor_file(tmp_path / "model.safetensors", {"x": BITS})
    files = TensorFiles(tmp_path)
    np.testing.assert_array_equal(files.raw("x"), BITS)
    np.testing.assert_array_equal(files.read("x"), np.array([1, -2, np.inf, 9.1835e-41, -0.0, 3.140625], np.float32))
    assert files.read("x", "float16").dtype == np.float16


def test_array_that_is_not_contiguous(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    write_tensor_file(tmp_path / "model.safetensors", {"n": array.T, "p": paddle.to_tensor(array).T})
    files = TensorFiles(tmp_path)
    np.testing.assert_array_equal(files.read("n"), array.T)
    np.testing.assert_array_equal(files.read("p"), array.T)


def test_reads_files_of_the_library(tmp_path):
    array = np.arange(6, dtype=np.float64).reshape(2, 3)
    safetensors.numpy.save_file({"x": array}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    files = TensorFiles(tmp_path)
    assert files.metadata == {"format": "pt"}
    np.testing.assert_array_equal(files.read("x"), array)
    np.testing.assert_array_equal(files.part("x", [[(0, 2)], [(1, 3)]]), array[:, 1:3].reshape(-1))


@pytest.mark.parametrize("shift", range(1, 8))
def test_reads_files_whose_data_are_not_aligned(tmp_path, shift):
    values = np.arange(6, dtype=np.float32)
    header = json.dumps({"x": {"dtype": "F32", "shape": [6], "data_offsets": [0, 24]}}).encode()
    header += b" " * ((shift - len(header)) % 8)
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + values.tobytes())
    files = TensorFiles(tmp_path)
    np.testing.assert_array_equal(files.read("x"), values)
    np.testing.assert_array_equal(files.tensor("x").numpy(), values)
    parameter = paddle.create_parameter([6], "float32")
    parameter.set_value(files["x"])
    np.testing.assert_array_equal(parameter.numpy(), values)


def test_loading_copies_so_that_training_does_not_write_to_the_file(tmp_path):
    write_tensor_file(tmp_path / "model.safetensors", {"x": np.ones([64], np.float32)})
    files = TensorFiles(tmp_path)
    parameter = paddle.create_parameter([64], "float32")
    parameter.set_value(files["x"])
    for tensor in (parameter, files.tensor("x")):
        with paddle.no_grad():
            tensor.scale_(3.0)
    assert files.read("x").tolist() == [1.0] * 64


def test_a_part_reads_its_own_bytes_only(tmp_path):
    array = np.arange(60, dtype=np.float32).reshape(5, 12)
    write_tensor_file(tmp_path / "model.safetensors", {"x": array})
    files, before = TensorFiles(tmp_path), bytes_read.total
    part = files.part("x", [[(0, 5)], [(9, 12), (0, 2)]], start=3, stop=17)
    assert part.tolist() == array[:, [9, 10, 11, 0, 1]].reshape(-1)[3:17].tolist()
    assert bytes_read.total - before == 14 * 4
    part += 1
    assert files.raw("x").tolist() == array.tolist()


def test_an_excerpt_comes_in_blocks_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "BLOCK", 64)
    array = np.arange(60, dtype=np.float32).reshape(10, 6)
    write_tensor_file(tmp_path / "model.safetensors", {"x": array})
    excerpt = TensorFiles(tmp_path).excerpt("x", [[(1, 10)], [(0, 4)]])
    flat, rows = list(excerpt.blocks()), list(excerpt.rows())
    assert [start for start, _ in flat] == [0, 16, 32]
    assert np.concatenate([block for _, block in flat]).tolist() == array[1:, :4].reshape(-1).tolist()
    assert [first for first, _ in rows] == [0, 4, 8]
    assert np.concatenate([block for _, block in rows]).tolist() == array[1:, :4].tolist()


def test_a_file_cut_off_while_it_is_read_is_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(retries, "limit", 0)
    write_tensor_file(tmp_path / "model.safetensors", {"x": np.ones([64], np.float32)})
    files = TensorFiles(tmp_path)
    os.truncate(tmp_path / "model.safetensors", 200)
    with pytest.raises(UsageError, match=r"model\.safetensors: cannot be read: the file ends at byte 200"):
        files.raw("x")


def test_shards_and_index_as_the_reference_lays_them_out(tmp_path):
    tensors = {name: np.full([4], number, np.float32) for number, name in enumerate("abcde")}
    written = write_shards(tmp_path, "optimizer", tensors, max_shard_bytes=32, index_fields={"master_weights": True})
    names = [f"optimizer-0000{n}-of-00003.safetensors" for n in (1, 2, 3)]
    assert [file.name for file in written] == names
    text = (tmp_path / "optimizer.safetensors.index.json").read_text()
    assert json.loads(text) == {
        "metadata": {"total_size": 80},
        "master_weights": True,
        "weight_map": dict(zip("abcde", [names[0], names[0], names[1], names[1], names[2]])),
    }
    assert text.startswith('{\n    "metadata": {\n        "total_size"')
    assert TensorFiles(tmp_path, "optimizer").read("d").tolist() == [3] * 4


def test_one_oversized_tensor_gets_its_own_shard(tmp_path):
    tensors = {"a": np.zeros(2, np.float32), "big": np.zeros(99, np.float32), "c": np.zeros(2, np.float32)}
    assert len(write_shards(tmp_path, "model", tensors, max_shard_bytes=16)) == 3


def test_stale_shards_of_an_earlier_write_are_removed(tmp_path):
    tensors = {"a": np.zeros(4, np.float32), "b": np.zeros(4, np.float32)}
    write_shards(tmp_path, "model", tensors, max_shard_bytes=16)
    write_shards(tmp_path, "optimizer", tensors)
    write_shards(tmp_path, "model", tensors)
    names = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert names == ["model-00001-of-00001.safetensors", "optimizer-00001-of-00001.safetensors"]


def test_hash_computed_while_writing_is_the_hash_of_the_file(tmp_path, tensors):
    (written,) = write_shards(tmp_path, "model", tensors, checksum=True)
    assert written.sha256 == sha256_file(tmp_path / written.name)
    assert written.size == (tmp_path / written.name).stat().st_size
    assert write_shards(tmp_path, "model", tensors)[0].sha256 is None


def test_lazy_tensors_are_made_one_at_a_time(tmp_path):
    alive, most = [], []

    def lazy(number):
        def make():
            most.append(sum(reference() is not None for reference in alive))
            array = np.full([8], number, np.float32)
            import weakref

            alive.append(weakref.ref(array))
            return array

        return LazyTensor((8,), "float32", make)

    write_shards(tmp_path, "model", {str(number): lazy(number) for number in range(4)})
    assert TensorFiles(tmp_path).read("3").tolist() == [3] * 8
    assert max(most) <= 1  # the one before may still be held while the next is made


def test_lazy_tensor_of_another_size_than_announced(tmp_path):
    with pytest.raises(ValueError, match="tensor x has 8 bytes where 16"):
        write_tensor_file(
            tmp_path / "m.safetensors", {"x": LazyTensor((4,), "float32", lambda: np.zeros(4, "float16"))}
        )
    assert list(tmp_path.iterdir()) == []


def test_type_that_cannot_be_written(tmp_path):
    with pytest.raises(ValueError, match="complex64"):
        write_tensor_file(tmp_path / "m.safetensors", {"x": np.zeros(1, np.complex64)})


def refusal(folder, stem="model"):
    with pytest.raises(UsageError) as caught:
        TensorFiles(folder, stem)
    return str(caught.value)


def test_missing_folder_and_missing_files_are_named(tmp_path):
    assert "does not exist" in refusal(tmp_path / "nowhere")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "expected model.safetensors" in refusal(tmp_path)
    assert "pytorch_model.bin" in refusal(tmp_path)


def test_missing_shard_is_named(tmp_path):
    write_shards(tmp_path, "model", {name: np.zeros(4, np.float32) for name in "abc"}, max_shard_bytes=16)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    message = refusal(tmp_path)
    assert "1 of the 3 files" in message
    assert "model-00002-of-00003.safetensors" in message


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_truncated_file_is_refused(tmp_path, keep):
    write_tensor_file(tmp_path / "model.safetensors", {"x": np.zeros(64, np.float32)})
    data = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(data[:keep])
    assert re.search(r"model\.safetensors: not a whole safetensors file.*copy it again", refusal(tmp_path))


def test_index_that_names_tensors_the_files_lack(tmp_path):
    write_shards(tmp_path, "model", {name: np.zeros(4, np.float32) for name in "ab"})
    write_tensor_file(tmp_path / "model-00001-of-00001.safetensors", {"a": np.zeros(4, np.float32)})
    assert "b (in model-00001-of-00001.safetensors)" in refusal(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"weight_map": {}}', '{"weight_map": {"x": "../x.safetensors"}}', '{"weight_map": {"x": 3}}']
)
def test_index_that_is_no_index(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert "not an index of tensor files" in refusal(tmp_path)


def test_unknown_tensor_is_named_with_what_is_there(tmp_path):
    write_tensor_file(tmp_path / "model.safetensors", {"x": np.zeros(4, np.float32)})
    with pytest.raises(UsageError, match="no tensor y in model files; they hold x"):
        TensorFiles(tmp_path).tensor("y")


def test_float8_is_refused_by_name(tmp_path):
    header = json.dumps({"x": {"dtype": "F8_E4M3", "shape": [8], "data_offsets": [0, 8]}}).encode()
    header += b" " * (-len(header) % 8)
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    assert "F8_E4M3" in refusal(tmp_path)
