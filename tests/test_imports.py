"""What a start costs, counted in modules: times would depend on the machine."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import List

import pytest

ROOT = Path(__file__).resolve().parent.parent
HEAVY = {"paddle", "torch", "transformers", "tokenizers", "visualdl", "scipy", "pandas", "matplotlib"}


def modules_after(code: str) -> List[str]:
    """The modules that a fresh Python has after running the code; "--" in its output parts them from what it prints."""
    program = f"import sys\ntry:\n    {code}\nexcept SystemExit:\n    pass\nprint('--', *sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.rpartition("--")[2].split()


def test_the_package_adds_next_to_nothing_to_an_import_of_paddle():
    bare = set(modules_after("import paddle"))
    assert len(set(modules_after("import paddle, paddlenlp")) - bare) <= 5


@pytest.mark.parametrize(
    "code",
    ["import paddlenlp, paddlenlp.nn, paddlenlp.trainer, paddlenlp.transformers, paddlenlp.data, paddlenlp.parallel"],
)
def test_a_room_imports_what_is_asked_of_it_only(code):
    own = [name for name in modules_after(code) if name.startswith("paddlenlp.")]
    assert len(own) <= 10, own


@pytest.mark.parametrize("words", ["--help", "--help logging"])
def test_help_needs_no_framework(words):
    argv = ["run_pretrain.py", *words.split()]
    found = modules_after(
        f"import runpy; sys.argv = {argv!r}; runpy.run_path('llm/run_pretrain.py', run_name='__main__')"
    )
    assert "paddlenlp.trainer.argparser" in found
    assert not HEAVY & set(found)
    assert len(found) < 500, len(found)


def test_the_trainer_brings_no_dashboard_profiler_or_other_framework():
    new = set(modules_after("import paddle, paddlenlp.trainer.trainer")) - set(modules_after("import paddle"))
    assert not (HEAVY - {"paddle"}) & new
    assert len([name for name in new if not name.startswith("paddlenlp.")]) <= 40, sorted(new)
