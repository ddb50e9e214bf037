"""Files that a run or a tool opens may be made by an enemy: none makes the program execute anything or leave its
folder, and each is refused with one clear error."""

from __future__ import annotations

import ast
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from paddlenlp.checkpoint.folder import Checkpoint
from paddlenlp.checkpoint.inspection import summarise
from paddlenlp.checkpoint.manifest import verify
from paddlenlp.data.index_cache import IndexCache
from paddlenlp.data.indexed_dataset import make_dataset
from paddlenlp.transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from paddlenlp.transformers.convert import convert_model
from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import sha256_file
from paddlenlp.utils.tensor_files import TensorFiles

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted(path for room in ("paddlenlp", "llm") for path in (ROOT / room).rglob("*.py"))
DEEP = "[" * 200_000
LLAMA = {
    "model_type": "llama",
    "vocab_size": 16,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}

# --- what the code may not call

MODULES = {"pickle", "_pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}
CALLS = {"eval", "exec", "compile", "__import__", "breakpoint"}
METHODS = {
    *("paddle.load", "paddle.save", "paddle.jit.load", "paddle.framework.io.load", "torch.load", "np.loads"),
    *("yaml.load", "yaml.unsafe_load", "yaml.full_load", "os.system", "os.popen", "subprocess.getoutput"),
    *("tarfile.extractall", "shutil.unpack_archive", "runpy.run_path", "code.interact"),
}
ATTRIBUTES = {"extractall", "unpack_archive", "import_module"}
LOADERS = {
    *("paddlenlp/utils/lazy.py", "paddlenlp/transformers/auto/families.py"),
    *("paddlenlp/data/index_builder.py", "paddlenlp/data/preprocess_text.py"),
}
"""What they import is named in the code, not in files."""


def name_of(node: ast.AST) -> str:
    """`a.b.c` of an expression, as far as it is one."""
    if isinstance(node, ast.Attribute):
        return f"{name_of(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def unsafe(source: str, path: str = "") -> list:
    """What `source` does of the things that may run what stands in a file, with lines."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            inner = [f"{getattr(node, 'module', None) or ''}.{alias.name}".strip(".") for alias in node.names]
            found += [(node.lineno, name) for name in inner if name.split(".")[0] in MODULES or name in METHODS]
        elif isinstance(node, ast.Call):
            name, last = name_of(node.func), name_of(node.func).rpartition(".")[2]
            words = {word.arg: word.value for word in node.keywords}
            true = [word for word, value in words.items() if not (isinstance(value, ast.Constant) and not value.value)]
            found += [(node.lineno, name)] if name in CALLS | METHODS else []
            found += [(node.lineno, name)] if last in ATTRIBUTES and path not in LOADERS else []
            found += [(node.lineno, word) for word in ("allow_pickle", "shell", "trust_remote_code") if word in true]
        elif isinstance(node, ast.Attribute) and name_of(node) in METHODS:
            found.append((node.lineno, name_of(node)))
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_shipped_code_can_run_what_a_file_says(path):
    assert unsafe(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix()) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import pickle as p",
        "from pickle import loads",
        "from os import system",
        "import joblib.numpy_pickle",
        "def f():\n    import dill",
        "from torch import load",
        "torch.load('x')",
        "paddle.load('x')",
        "load = paddle.load",
        "paddle.save({}, 'x')",
        "np.load('x', allow_pickle=True)",
        "np.load('x', allow_pickle=allowed)",
        "eval('1')",
        "exec(text)",
        "yaml.load(file)",
        "os.system('ls')",
        "subprocess.run('ls', shell=True)",
        "tarfile.open('x').extractall('y')",
        "zipfile.ZipFile('x').extractall()",
        "importlib.import_module(config.auto_map)",
        "__import__(name)",
        "AutoConfig.from_pretrained('x', trust_remote_code=True)",
    ],
)
def test_what_is_banned_is_seen(source):
    assert unsafe(source), source
    assert not unsafe("np.load(path, mmap_mode='r')\nsubprocess.run(['ls'], shell=False)\nmodel.eval()\nimport json")


# --- payloads


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark):
        self.mark = str(mark)

    def __reduce__(self):
        return os.system, (f"touch '{self.mark}'",)


@pytest.fixture()
def mark(tmp_path):
    """The file that a payload makes: it must not be there in the end."""
    path = tmp_path / "executed"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists(), "the payload does nothing, so these tests would see nothing"
    path.unlink()
    yield path
    assert not path.exists()


def refused(call, *words):
    """`call` ends in one UsageError that says `words`."""
    with pytest.raises(UsageError) as caught:
        call()
    text = str(caught.value)
    assert all(str(word) in text for word in words), text


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def npy_header(text):
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(kind, mark):
    """An archive whose member wants to be the file `mark`."""
    stream = io.BytesIO()
    name = f"../../{mark.name}"
    if kind == "zip":
        with zipfile.ZipFile(stream, "w") as made:
            made.writestr(name, "x")
            made.writestr("archive/data.pkl", pickle.dumps(Payload(mark)))
    else:
        with tarfile.open(fileobj=stream, mode="w") as made:
            made.addfile(tarfile.TarInfo(name))
    return stream.getvalue()


PICKLES = ("pytorch_model.bin", "model_state.pdparams", "model.pt", "model.pth", "model.ckpt", "model_state.pdopt")


@pytest.mark.parametrize("kind", ["pickle", "zip", "tar"])
@pytest.mark.parametrize("name", PICKLES)
def test_pickled_weights_and_archives(tmp_path, mark, name, kind):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LLAMA))
    content = pickle.dumps(Payload(mark)) if kind == "pickle" else archive(kind, mark)
    for file in (name, "training_args.bin", "optimizer.pdopt", "scheduler.pdparams", "rng_state.pth"):
        (folder / file).write_bytes(content)
    refused(lambda: AutoModelForCausalLM.from_pretrained(folder), folder)
    refused(lambda: convert_model(folder, tmp_path / "out", "hf"), folder)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("stem", ["model", "optimizer"])
def test_pickles_under_the_names_of_tensor_files(tmp_path, mark, stem):
    for content in (pickle.dumps(Payload(mark)), archive("zip", mark)):
        (tmp_path / f"{stem}.safetensors").write_bytes(content)
        refused(lambda: TensorFiles(tmp_path, stem), "not a whole safetensors file", tmp_path)


def entry(start, stop, shape=(1,), dtype="F32"):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [start, stop]}


HEADERS = {
    "overlapping": ({"a": entry(0, 4), "b": entry(0, 4)}, b"1234"),
    "overlapping by half": ({"a": entry(0, 4), "b": entry(2, 6)}, b"123456"),
    "a hole": ({"a": entry(0, 4), "b": entry(8, 12)}, b"1" * 12),
    "beyond the end": ({"a": entry(0, 4000, (1000,))}, b"1"),
    "before the start": ({"a": entry(-4, 0)}, b"1234"),
    "a shape that is not there": ({"a": entry(0, 4, (1 << 40,))}, b"1234"),
    "a shape that overflows": ({"a": entry(0, 0, (1 << 32, 1 << 32))}, b""),
    "a negative shape": ({"a": entry(0, 4, (-1, -1))}, b"1234"),
    "an unknown type": ({"a": entry(0, 4, dtype="PICKLE")}, b"1234"),
    "one name twice": (
        b'{"a":%b,"a":%b}' % tuple(json.dumps(entry(*at)).encode() for at in ((0, 4), (4, 8))),
        b"12345678",
    ),
    "nested": (DEEP.encode(), b""),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_of_tensor_files(tmp_path, case):
    header, data = HEADERS[case]
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    refused(lambda: TensorFiles(tmp_path), tmp_path / "model.safetensors")


@pytest.mark.parametrize("size", [1 << 30, 1 << 62, (1 << 64) - 1])
def test_headers_that_say_they_are_huge(tmp_path, size):
    (tmp_path / "model.safetensors").write_bytes(size.to_bytes(8, "little") + b"{}")
    refused(lambda: TensorFiles(tmp_path), "header too large")


NAMES = ("../outside.safetensors", "/outside.safetensors", "..", ".", "", "a\0b", "x/../y", "model.bin", 3, ["x"], None)


@pytest.mark.parametrize("name", NAMES, ids=repr)
def test_names_in_the_index_of_tensor_files(tmp_path, mark, name):
    folder = tmp_path / "model"
    folder.mkdir()
    text = json.dumps({"a": entry(0, 4)}).encode()
    (tmp_path / "outside.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"1234")
    (folder / "model.bin").write_bytes(pickle.dumps(Payload(mark)))
    if name == "/outside.safetensors":
        name = str(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
    refused(lambda: TensorFiles(folder), folder)


JSON = {"nested": DEEP, "nested objects": '{"a":' * 100_000, "a list": "[1]", "a number": "9" * 10_000, "bytes": "\0"}


@pytest.mark.parametrize("case", JSON)
@pytest.mark.parametrize(
    "file", ["config.json", "model.safetensors.index.json", "tokenizer_config.json", "d.meta.json"]
)
def test_json_that_is_no_object(tmp_path, case, file):
    (tmp_path / file).write_text(JSON[case])
    if file == "tokenizer_config.json":
        (tmp_path / "tokenizer.json").write_text("{}")
    if file == "d.meta.json":
        write_dataset(tmp_path, [1], [0], [0, 1])
    open_it = {
        "config.json": AutoConfig.from_pretrained,
        "model.safetensors.index.json": TensorFiles,
        "tokenizer_config.json": AutoTokenizer.from_pretrained,
        "d.meta.json": lambda folder: make_dataset(str(folder / "d")),
    }[file]
    refused(lambda: open_it(tmp_path), tmp_path)


@pytest.mark.parametrize("case", ["nested", "nested objects", "bytes"])
def test_states_of_a_checkpoint(tmp_path, case):
    (tmp_path / "rng_state.json").write_text(JSON[case])
    refused(lambda: Checkpoint(tmp_path).state("rng_state.json"), tmp_path / "rng_state.json")
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "rng_state.json").write_text(JSON[case])
    assert [summary.layout for summary in summarise(tmp_path)] == [""]


CONFIGS = {
    "code of its own": {"model_type": "odd", "auto_map": {"AutoConfig": "evil.X"}, "trust_remote_code": True},
    "a path as type": {"model_type": "../../evil"},
    "a module as type": {"model_type": "os"},
    "a list as type": {"model_type": ["llama"]},
    "a mapping as type": {"model_type": {"a": 1}},
    "a number as class": {"architectures": [3]},
    "a word as init_args": {"init_class": "LlamaForCausalLM", "init_args": 5},
    "a method": {**LLAMA, "validate": "x"},
    "a table": {**LLAMA, "derived": {}},
    "the class": {**LLAMA, "__class__": "x"},
    "its values": {**LLAMA, "__dict__": {}},
    "a size of the wrong kind": {**LLAMA, "hidden_size": "8"},
}


@pytest.mark.parametrize("case", CONFIGS)
def test_configurations(tmp_path, mark, case):
    for name in ("evil.py", "configuration_odd.py", "modeling_odd.py", "os.py"):
        (tmp_path / name).write_text(f"open({str(mark)!r}, 'w')\nclass X: pass\n")
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[case]))
    refused(lambda: AutoConfig.from_pretrained(tmp_path), tmp_path / "config.json")


def test_code_beside_a_model_is_not_run(tmp_path, mark):
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass X: pass\n")
    values = {**LLAMA, "auto_map": {"AutoModelForCausalLM": "evil.X"}, "trust_remote_code": True}
    model = AutoModelForCausalLM.from_config(AutoConfig.from_dict(values))
    model.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "evil.py").write_text((tmp_path / "evil.py").read_text())
    convert_model(tmp_path / "model", tmp_path / "hf", "hf")
    assert type(AutoModelForCausalLM.from_pretrained(tmp_path / "hf")) is type(model)
    assert sorted(path.suffix for path in (tmp_path / "hf").iterdir()) == [".json", ".json", ".safetensors"]


VOCAB = {"vocab.json": b'{"a": 0}', "merges.txt": b""}
TOKENIZERS = {
    "nested": {"tokenizer.json": DEEP.encode()},
    "no tokenizer": {"tokenizer.json": b'{"model": 1}'},
    "a pickle": {"tokenizer.model": b"\x80\x04cposix\nsystem\n(S'touch executed'\ntR."},
    "a zip": {"tokenizer.model": b"PK\x03\x04"},
    "a nested vocabulary": {"vocab.json": DEEP.encode(), "merges.txt": b""},
    "a list as class": {**VOCAB, "tokenizer_config.json": b'{"tokenizer_class": ["a"]}'},
    "added tokens as list": {**VOCAB, "tokenizer_config.json": b'{"added_tokens_decoder": [1]}'},
    "a word as id": {**VOCAB, "tokenizer_config.json": b'{"added_tokens_decoder": {"x": {"content": "y"}}}'},
    "a text as id": {**VOCAB, "added_tokens.json": b'{"x": "y"}'},
    "a huge id": {**VOCAB, "added_tokens.json": b'{"x": 4000000000}'},
    "a word as length": {**VOCAB, "tokenizer_config.json": b'{"model_max_length": "x"}'},
    "a list as token": {**VOCAB, "special_tokens_map.json": b'{"bos_token": [1, 2]}'},
    "not base64": {"qwen.tiktoken": b"YQ== 0\n!!!! x\n"},
}


@pytest.mark.parametrize("case", TOKENIZERS)
def test_tokenizers(tmp_path, mark, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    for name, content in TOKENIZERS[case].items():
        (tmp_path / name).write_bytes(content)
    refused(lambda: AutoTokenizer.from_pretrained(tmp_path), tmp_path)


def test_a_tokenizer_with_code_of_its_own(tmp_path, mark):
    (tmp_path / "evil.py").write_text(f"open({str(mark)!r}, 'w')\nclass T: pass\n")
    values = {"auto_map": {"AutoTokenizer": ["evil.T", None]}, "tokenizer_class": "evil.T", "trust_remote_code": True}
    for name, content in {**VOCAB, "tokenizer_config.json": json.dumps(values).encode()}.items():
        (tmp_path / name).write_bytes(content)
    assert type(AutoTokenizer.from_pretrained(tmp_path)).__name__ == "PretrainedTokenizer"


def write_dataset(folder, sizes, pointers, documents, header=None):
    counts = (len(sizes), len(documents)) if header is None else header
    arrays = (np.array(sizes, "<i4"), np.array(pointers, "<i8"), np.array(documents, "<i8"))
    index = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, 8, *counts) + b"".join(array.tobytes() for array in arrays)
    (folder / "d.idx").write_bytes(index)
    (folder / "d.bin").write_bytes(b"12")


INDEXES = {
    "more than there is": ([1], [0], [0, 1], (1 << 62, 1 << 62)),
    "a product that wraps around": ([1], [0], [0, 1], ((1 << 64) // 12 + 1, 0)),
    "a negative size": ([-5], [0], [0, 1]),
    "a huge size": ([(1 << 31) - 1], [0], [0, 1]),
    "a negative pointer": ([1], [-2], [0, 1]),
    "a far pointer": ([1], [1 << 62], [0, 1]),
    "a far document": ([1], [0], [0, 1 << 62]),
    "a negative document": ([1], [0], [-1, 1]),
}


@pytest.mark.parametrize("case", INDEXES)
def test_datasets(tmp_path, case):
    write_dataset(tmp_path, *INDEXES[case])
    refused(lambda: make_dataset(str(tmp_path / "d")), tmp_path / "d")


def old_datasets(mark):
    ids, evil = npy(np.zeros(3, np.int32)), np.array([Payload(mark)], object)
    call = b"{'descr': __import__('os').system('touch executed'), 'shape': (3,)}"
    return {
        "objects as tokens": (npy(evil), npz(lens=[3], docs=[0, 1])),
        "objects as sizes": (ids, npz(lens=evil, docs=[0, 1])),
        "pickles": (pickle.dumps(Payload(mark)), pickle.dumps(Payload(mark))),
        "a call in the header": (npy_header(call), npz(lens=[3], docs=[0, 1])),
        "a huge shape": (
            npy_header(b"{'descr': '<i4', 'fortran_order': False, 'shape': (4611686018427387904,)}"),
            npz(lens=[3], docs=[0, 1]),
        ),
        "members outside": (ids, archive("zip", mark)),
        "half an archive": (ids, npz(lens=[3], docs=[0, 1])[:-30]),
        "a number as sizes": (ids, npz(lens=np.int64(3), docs=np.int64(0))),
        "a matrix as sizes": (ids, npz(lens=np.ones((2, 2), int), docs=[0, 1])),
        "words as sizes": (ids, npz(lens=["x"], docs=[0, 1])),
    }


@pytest.mark.filterwarnings("ignore:overflow")
@pytest.mark.parametrize("case", list(old_datasets(Path())))
def test_datasets_of_the_oldest_format(tmp_path, mark, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    ids, index = old_datasets(mark)[case]
    (tmp_path / "d_ids.npy").write_bytes(ids)
    (tmp_path / "d_idx.npz").write_bytes(index)
    refused(lambda: make_dataset(str(tmp_path / "d")), tmp_path / "d")


def test_index_caches_are_built_again(tmp_path, mark, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cache = IndexCache("what", ["a"], [str(tmp_path)], lambda arrays: None)
    (tmp_path / f"{cache.hash}.dsc").write_text("what")
    call = b"{'descr': __import__('os').system('touch executed'), 'fortran_order': False, 'shape': (3,)}"
    for content in (npy(np.array([Payload(mark)], object)), pickle.dumps(Payload(mark)), npy_header(call), b""):
        (tmp_path / f"{cache.hash}_a.npy").write_bytes(content)
        assert cache.load_or_build(lambda: {"a": np.arange(3)})["a"].tolist() == [0, 1, 2]


# --- checkpoints

STATES = ([1], {"global_step": "9"}, {"global_step": True}, {"epoch": "x"}, {"log_history": {}}, {"pending": "save"})


@pytest.mark.parametrize("state", STATES, ids=repr)
def test_states_of_a_run(tmp_path, state):
    from paddlenlp.trainer.restore import load_rng, load_state
    from paddlenlp.trainer.state import TrainerState

    good = {**TrainerState(global_step=3, consumed_samples=24).to_dict(), "unknown": DEEP}
    for name in ("trainer_state.json", "rng_state.json"):
        (tmp_path / name).write_text(json.dumps(good))
    assert load_state(tmp_path, TrainerState(max_steps=5)) == TrainerState(3, 5, consumed_samples=24)
    refused(lambda: load_rng(tmp_path, 0), "rng_state.json")
    (tmp_path / "trainer_state.json").write_text(json.dumps(state))
    refused(lambda: load_state(tmp_path, TrainerState()), "JSON object" if isinstance(state, list) else "wrong kind")
    (tmp_path / "rng_state.json").write_text(json.dumps([state]))
    refused(lambda: load_rng(tmp_path, 0), "rng")


def manifest_of(folder, files, step=3):
    folder.mkdir(exist_ok=True)
    (folder / "manifest.json").write_text(json.dumps({"version": 1, "step": step, "files": files}))
    return folder


def facts(path):
    return {"size": path.stat().st_size, "sha256": sha256_file(path)}


@pytest.mark.parametrize("name", ["../outside", "/outside", "a/../../outside", "..", ".", "a\0b"], ids=repr)
def test_manifests_do_not_leave_their_folder(tmp_path, name):
    (tmp_path / "outside").write_text("x")
    name = str(tmp_path / "outside") if name == "/outside" else name
    folder = manifest_of(tmp_path / "checkpoint-3", {name: facts(tmp_path / "outside")})
    assert len(verify(folder)) == 1


@pytest.mark.parametrize(
    "content", [DEEP, "[1]", '{"version": 1}', '{"version": 1, "step": 3, "files": [1]}', "", "\0", "null"]
)
def test_manifests_that_are_none(tmp_path, content):
    folder = tmp_path / "checkpoint-3"
    folder.mkdir()
    (folder / "manifest.json").write_text(content)
    assert [problem.startswith("manifest.json is damaged") for problem in verify(folder)] == [True]


def test_links_that_leave_a_checkpoint_are_damage(tmp_path):
    (tmp_path / "outside").write_text("x")
    folder = manifest_of(tmp_path / "checkpoint-3", {"file": facts(tmp_path / "outside")})
    (folder / "file").symlink_to(tmp_path / "outside")
    assert verify(folder) == ["file is a link to something outside of the checkpoint"]
    (folder / "file").unlink()
    (folder / "inner").write_text("x")
    (folder / "file").symlink_to("inner")
    assert verify(folder) == []
    os.rename(folder, tmp_path / "elsewhere")
    (tmp_path / "elsewhere").rename(tmp_path / "outside folder")
    (tmp_path / "there").mkdir()
    os.rename(tmp_path / "outside folder", tmp_path / "there" / "checkpoint-3")
    (tmp_path / "checkpoint-3").symlink_to(tmp_path / "there" / "checkpoint-3")
    assert verify(tmp_path / "checkpoint-3") == []


def test_a_run_opens_none_of_the_pickles_around_it(tmp_path, mark):
    """In the folder of the model, the tokenizer and the data, in output_dir, and in a checkpoint as the reference has
    it."""
    sys.path.append(str(ROOT / "tests/llm"))
    from materials import arguments, write_materials

    write_materials(tmp_path)
    out = tmp_path / "out"
    (out / "checkpoint-9").mkdir(parents=True)
    names = ("training_args.bin", "pytorch_model.bin", "model_state.pdparams", "optimizer.pdopt", "scheduler.pdparams")
    names += ("rng_state.pth", "scaler.pdparams", "trainer_state.json", "config.pkl", "tokenizer.pkl", "sitecustomize")
    for folder in (out, out / "checkpoint-9", *(tmp_path / name for name in ("model", "tokenizer", "data"))):
        for name in names:
            (folder / name).write_bytes(pickle.dumps(Payload(mark)))
    changes = {"max_steps": 2, "save_steps": 2, "eval_steps": 2, "do_eval": False, "do_predict": False}
    (tmp_path / "run.json").write_text(json.dumps(arguments(tmp_path, out, **changes)))
    command = [sys.executable, str(ROOT / "llm/run_pretrain.py"), str(tmp_path / "run.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert verify(out / "checkpoint-2") == [] and "checkpoint-9" in done.stderr
