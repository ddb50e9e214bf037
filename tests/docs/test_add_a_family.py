"""docs/add_a_family.md, followed step by step in a copy of the tree: the family that it adds passes every test."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Iterator, NamedTuple, Tuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs/add_a_family.md"
COPIED = ("paddlenlp", "llm/config", "llm/run_pretrain.py", "tests", "pyproject.toml")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "fixtures")
FILE = re.compile(r"^New file `(?P<path>[^`]+)`:\n\n```\w+\n(?P<text>.*?)^```$", re.M | re.S)
ROW = re.compile(r"^Add to `(?P<table>[^`]+)` in `(?P<path>[^`]+)`:\n\n```\w+\n(?P<text>.*?)^```$", re.M | re.S)
BLOCK = re.compile(r"^```\w+\n.*?^```$", re.M | re.S)
COMMAND = re.compile(r"^pytest (.*)$", re.M)
LAYOUTS = {
    "tp2": {"tensor_parallel_degree": 2},
    "tp2+sp": {"tensor_parallel_degree": 2, "sequence_parallel": True},
    "pp2": {"pipeline_parallel_degree": 2},
    "sharding2 stage3": {"sharding": "stage3", "sharding_parallel_degree": 2},
}


class Copy(NamedTuple):
    """The tree with the family in it, and the tests that the page names, under way in it."""

    root: Path
    tests: subprocess.Popen


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Copy]:
    root = tmp_path_factory.mktemp("copy")
    for name in COPIED:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, root / name, ignore=LEFT_OUT)
        else:
            shutil.copy2(ROOT / name, root / name)
    (root / "tests/fixtures").mkdir()
    for path in (ROOT / "tests/fixtures").iterdir():
        if path.is_dir():
            (root / "tests/fixtures" / path.name).symlink_to(path)
        else:
            shutil.copy2(path, root / "tests/fixtures")
    follow(PAGE.read_text(encoding="utf-8"), root)
    # What `make_families.py gpt_neox` made, with the row that the page adds to it, is kept beside this test.
    shutil.copytree(Path(__file__).with_name("gpt_neox"), root / "tests/fixtures/gpt_neox")
    words = re.findall(r'"[^"]*"|\S+', COMMAND.search(PAGE.read_text(encoding="utf-8")).group(1))
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *(word.strip('"') for word in words)]
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    process = subprocess.Popen(command, cwd=root, env=environment, **pipes)
    yield Copy(root, process)
    process.kill()
    process.wait()


def follow(page: str, root: Path) -> None:
    """Write the files of the page and add its rows."""
    for found in FILE.finditer(page):
        path = root / found["path"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(found["text"], encoding="utf-8")
    for found in ROW.finditer(page):
        path = root / found["path"]
        path.write_text(added(path.read_text(encoding="utf-8"), found["table"], found["text"]), encoding="utf-8")


def added(text: str, table: str, rows: str) -> str:
    """`text` with `rows` at the beginning of `table`: where a bracket opens on a line with its name, or soon after."""
    lines = text.splitlines(keepends=True)
    for place in (place for place, line in enumerate(lines) if table in line):
        for end, line in enumerate(lines[place : place + 3], place + 1):
            if line.endswith(("[\n", "{\n")):
                return "".join([*lines[:end], rows, *lines[end:]])
    raise AssertionError(f"there is no table {table} any more")


def test_the_page_is_followed_whole():
    page = PAGE.read_text(encoding="utf-8")
    followed = len(FILE.findall(page)) + len(ROW.findall(page)) + len(COMMAND.findall(page))
    only_named = page.count("python tests/parallel/capabilities.py\n")
    assert followed + only_named == len(BLOCK.findall(page))
    for found in ROW.finditer(page):
        text = (ROOT / found["path"]).read_text(encoding="utf-8")
        assert found["text"] in added(text, found["table"], found["text"])


def test_the_chinese_page_has_the_same_code():
    pages = (PAGE, PAGE.with_name("add_a_family_zh.md"))
    english, chinese = (BLOCK.findall(page.read_text(encoding="utf-8")) for page in pages)
    assert english == chinese


def test_two_ranks_train_like_one_process(copy):
    spec = importlib.util.spec_from_file_location("ranks_of_the_copy", copy.root / "tests/parallel/ranks.py")
    ranks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(ranks)
    models = {"GPT-NeoX": row_of_capabilities(copy.root)}

    def run(launch: Tuple[int, dict]):
        world, layouts = launch
        payload = {"layouts": layouts, "models": models, "steps": 2}
        return ranks.run_ranks(world, "tests/parallel/work_layouts.py:families", payload)

    with ThreadPoolExecutor() as threads:
        (alone,), pair = threads.map(run, [(1, {"one": {}}), (2, LAYOUTS)])
    for rank in pair:
        for layout in LAYOUTS:
            for kind in ("losses", "norms"):
                expected = alone["one | GPT-NeoX"][kind]
                assert rank[f"{layout} | GPT-NeoX"][kind] == pytest.approx(expected, rel=1e-6), layout


def row_of_capabilities(root: Path):
    """The tiny model that the page adds to the table of capabilities."""
    code = "import json, capabilities; print(json.dumps(capabilities.FAMILIES['GPT-NeoX']))"
    environment = {**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests/parallel'}"}
    done = subprocess.run([sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_tests_of_the_page_pass(copy):
    output, _ = copy.tests.communicate(timeout=300)
    assert copy.tests.returncode == 0, output[-3000:]
    passed = re.search(r"(\d+) passed", output)
    assert passed and int(passed.group(1)) >= 15, output[-500:]
