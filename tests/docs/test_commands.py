"""Every command of the README and of docs/ runs, in the order in which a reader would run it.

Blocks fenced as `bash` are executed, file by file, in one copy of the tree. What can't run in a test (it needs GPUs,
say) is fenced as `text` under a comment `<!-- not run: reason -->`. The Chinese twins must hold the same commands.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
FENCE = re.compile(r"(?P<before>[^\n]*)\n+```(?P<kind>\w*)\n(?P<body>.*?)```", re.S)
PAGES = sorted([*ROOT.glob("README*.md"), ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")])
ENGLISH = [page for page in PAGES if not page.stem.endswith("_zh")]
OPS = ROOT / "slm/model_zoo/gpt-3/external_ops/README.md"
"""Its commands are those by which the Makefile installs, and tests/external_ops builds."""
TWINS = [page for page in [*ENGLISH, OPS] if page.with_name(f"{page.stem}_zh.md").exists()]

# A few small steps instead of minutes of training.
FEW_STEPS = (
    "--max_steps 4 --eval_steps 2 --save_steps 2 --logging_steps 1 --eval_iters 1 --test_iters 1 "
    "--sample_max_new_tokens 4 --per_device_train_batch_size 2 --per_device_eval_batch_size 2"
)
# What this very test run is part of is only planned (make -n). Its environment is one that the Makefile has made and
# filled by these very commands: it is taken as it is, and must hold what is to be installed.
INSTEAD = [
    (r"(?<!doctor\.py llm/config/llama/)pretrain_argument_tiny\.json", f"pretrain_argument_tiny.json {FEW_STEPS}"),
    (r"make (test|lint|format|docs)\b", r"make -n \1"),
    (r"\bpython3 -m venv (\S+)", r'ln -s "$VENV" \1'),
    (r"(\S+)/pip install", r"\1/python -m pip install --no-index"),
]


def blocks(page: Path) -> List[str]:
    """The executable blocks of a page."""
    return [match["body"] for match in FENCE.finditer(page.read_text(encoding="utf-8")) if match["kind"] == "bash"]


def shorter(block: str) -> str:
    for pattern, replacement in INSTEAD:
        block = re.sub(pattern, replacement, block)
    return block


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree, with an environment that `make` takes for finished."""
    top = tmp_path_factory.mktemp("clone")
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    for name in filter(lambda name: (ROOT / name).is_file(), listed.stdout.splitlines()):
        (top / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, top / name)
    environment = environment_of(top)
    environment.mkdir()
    for part in ("bin", "lib", "lib64", "include"):
        if (Path(sys.prefix) / part).exists():
            (environment / part).symlink_to(Path(sys.prefix) / part)
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", environment)
    for stamp in (".run", ".ops", ".dev"):
        (environment / stamp).touch()
    return top


def environment_of(clone: Path) -> Path:
    return clone.with_name(f"{clone.name}-venv")


@pytest.mark.parametrize("page", ENGLISH, ids=lambda page: page.name)
def test_commands_run(page: Path, clone: Path) -> None:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    variables = {**os.environ, "VENV": str(environment_of(clone)), "FLAGS": FEW_STEPS, "PATH": path}
    for block in blocks(page):
        command = ["bash", "-euo", "pipefail", "-c", shorter(block)]
        done = subprocess.run(command, cwd=clone, env=variables, capture_output=True, text=True)
        assert done.returncode == 0, f"{page.name}:\n{block}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize("page", TWINS, ids=lambda page: page.name if page != OPS else "external_ops")
def test_twin_has_the_same_commands(page: Path) -> None:
    def commands(path: Path) -> List[str]:
        return [re.sub(r"\s*#.*", "", block) for block in blocks(path)]

    assert commands(page) == commands(page.with_name(f"{page.stem}_zh.md"))


@pytest.mark.parametrize("page", [*PAGES, OPS], ids=lambda page: page.name if page != OPS else "external_ops")
def test_what_does_not_run_says_why(page: Path) -> None:
    for match in FENCE.finditer(page.read_text(encoding="utf-8")):
        assert match["kind"] not in ("sh", "shell", "console"), f"{page.name}: fence commands as bash or text"
        if match["kind"] == "text" and re.search(r"^\s*(python|make|pip)", match["body"], re.M):
            reason = match["before"].startswith("<!-- not run:")
            assert reason, f"{page.name}: say why this does not run:\n{match['body']}"
