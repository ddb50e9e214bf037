"""Python, Paddle and the packages around it."""

from __future__ import annotations

import sys
from importlib import metadata, util
from typing import List, Tuple

from paddlenlp.trainer.run_record import versions

from .finding import FAIL, OK, WARN, Finding

PYTHON: Tuple[Tuple[int, int], Tuple[int, int]] = ((3, 9), (3, 13))
"""From the first on, below the second; as setup.py says."""

PADDLE_TESTED = "3.3.1"
"""The release that the tests run on; as requirements.txt says."""

PACKAGES = {"numpy": "numpy", "safetensors": "safetensors", "tokenizers": "tokenizers", "tqdm": "tqdm"}
"""Module -> distribution, without which nothing trains."""


def python() -> Finding:
    """Its version, in the range this package is tested for."""
    here = sys.version_info[:2]
    found = f"{sys.version.split()[0]} ({sys.executable})"
    if PYTHON[0] <= here < PYTHON[1]:
        return Finding("Python", OK, found)
    (_, first), (_, after) = PYTHON
    advice = f"Use Python 3.{first} to 3.{after - 1}: python3.11 -m venv .venv, and install again there."
    return Finding("Python", FAIL, found, advice)


def packages() -> Finding:
    """Those that training can't do without."""
    missing = [name for module, name in PACKAGES.items() if util.find_spec(module) is None]
    if missing:
        advice = f"python -m pip install {' '.join(missing)}, or all of requirements.txt."
        return Finding("packages", FAIL, f"not installed: {', '.join(missing)}", advice)
    known = versions()
    shown = [f"{name} {known[name]}" for name in ("paddlenlp", "numpy", "safetensors", "tokenizers")]
    return Finding("packages", OK, ", ".join(shown))


def paddle() -> Finding:
    """Whether Paddle is there, loads, and is of a release that is known to work."""
    builds = _builds()
    if not builds:
        advice = f"python -m pip install paddlepaddle=={PADDLE_TESTED}; on GPUs Paddle's CUDA build of that release."
        return Finding("Paddle", FAIL, "not installed", advice)
    if len(builds) > 1:
        advice = "They write into the same folder: uninstall both, then install the one you need."
        return Finding("Paddle", FAIL, f"two builds are installed: {' and '.join(builds)}", advice)
    try:
        import paddle as loaded
    except Exception as error:
        advice = "Install it again, for this Python and this processor; a CUDA build needs the driver's libraries."
        return Finding("Paddle", FAIL, f"{builds[0]} does not load: {error}", advice)
    return _judge(str(loaded.__version__), builds[0])


def _judge(version: str, build: str) -> Finding:
    """What is known of a release."""
    tested = PADDLE_TESTED.split(".")
    advice = f"python -m pip install {build.split()[0]}=={PADDLE_TESTED}"
    parts = version.split(".")
    if parts[:1] != tested[:1] or version.startswith("0.0.0"):
        return Finding("Paddle", FAIL, f"{build}: only {tested[0]}.x has what is called here", advice)
    if parts[:2] != tested[:2]:
        found = f"{build}: the tests run on {PADDLE_TESTED}"
        return Finding("Paddle", WARN, found, f"If something goes wrong: {advice}")
    return Finding("Paddle", OK, build)


def _builds() -> List[str]:
    """The distributions that provide Paddle, with their versions."""
    found = []
    for name in ("paddlepaddle", "paddlepaddle-gpu"):
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    return found
