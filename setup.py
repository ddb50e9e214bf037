"""Packaging. The distribution is named paddlenlp: it provides that import package and replaces another of the name."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def requirements(name: str) -> list[str]:
    """The requirement lines of a file, without comments and includes."""
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text(encoding="utf-8").splitlines())
    return [line for line in lines if line and not line.startswith("-")]


VERSION = re.search(r'__version__ = "(.+)"', (ROOT / "paddlenlp/__init__.py").read_text(encoding="utf-8")).group(1)
RUN = requirements("requirements.txt")

setup(
    name="paddlenlp",
    version=VERSION,
    description="Pretraining of large language models on PaddlePaddle, simple to read and hard to break",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.9,<3.13",
    packages=find_packages(include=["paddlenlp", "paddlenlp.*"]),
    package_data={"paddlenlp": ["**/*.json", "py.typed"]},
    # Paddle is a choice of build (CPU, CUDA version): the extra takes the CPU one.
    install_requires=[line for line in RUN if not line.startswith("paddlepaddle")],
    extras_require={
        "cpu": [line for line in RUN if line.startswith("paddlepaddle")],
        "test": requirements("requirements-dev.txt"),
    },
)
