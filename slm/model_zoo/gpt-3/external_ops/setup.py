"""Builds the operations beside this file into one library, and installs it with the modules fused_layers, fused_ln and
fast_ln: `python3 setup.py install`, or `pip install .`

CPU operations are built everywhere, CUDA ones where the installed Paddle is a CUDA build.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
ARCHITECTURES = ("80", "90")
"""Of CUDA, unless CUDA_ARCHITECTURES names others, for example "80;86"."""


def import_paddle():
    """The installed Paddle. pip builds in an environment of its own, which hides it: look there, too."""
    warnings.filterwarnings("ignore", message="No ccache found")
    try:
        import paddle
    except ImportError:
        sys.path += [sysconfig.get_path(kind) for kind in ("purelib", "platlib")]
        try:
            import paddle
        except ImportError as error:
            raise SystemExit(
                f"external_ops: {sys.executable} cannot import paddle ({error}), against which the operations are "
                "built. Install paddlepaddle or paddlepaddle-gpu first."
            ) from None
    return paddle


class Toolchain:
    """Compilers, and the flags that the installed Paddle asks for."""

    def __init__(self) -> None:
        paddle = import_paddle()
        self.package = Path(paddle.__file__).parent
        self.tag = f"paddle_{paddle.version.full_version}_{paddle.version.commit[:8]}"
        self.cuda = bool(paddle.is_compiled_with_cuda())
        self.compiler = shlex.split(os.environ.get("CXX", "")) or [found("g++", "c++")]
        if shutil.which(self.compiler[0]) is None:
            raise SystemExit(
                f"external_ops: there is no C++ compiler ({self.compiler[0]} is not in PATH). Install g++ 8 or newer "
                "(Debian, Ubuntu: apt install g++), or name one: CXX=/path/to/g++. Training works without these "
                "operations, only slower."
            )
        self.nvcc = self.find_nvcc() if self.cuda else ""

    @staticmethod
    def find_nvcc() -> str:
        home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
        nvcc = shutil.which("nvcc", path=f"{home}/bin") or shutil.which("nvcc")
        if nvcc is None:
            raise SystemExit(
                f"external_ops: this Paddle is a CUDA build, but nvcc is neither in PATH nor in {home}/bin. Install "
                "the CUDA toolkit of Paddle's CUDA version, or set CUDA_HOME."
            )
        return nvcc

    def sources(self) -> list[Path]:
        """Kernels of the CPU, those of CUDA if they can be used, and the bindings; the slowest to compile first."""
        cuda = sorted(ROOT.glob("csrc/cuda/*.cu")) if self.cuda else []
        return [*cuda, *sorted(ROOT.glob("csrc/paddle/*.cc")), *sorted(ROOT.glob("csrc/cpu/*.cc"))]

    def compile_command(self, source: Path, result: Path) -> list[str]:
        common = ["-std=c++17", "-O3", "-c", str(source), "-o", str(result)]
        if source.suffix == ".cu":
            wanted = os.environ.get("CUDA_ARCHITECTURES", ";".join(ARCHITECTURES)).split(";")
            targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in wanted]
            return [self.nvcc, *common, *targets, "-Xcompiler=-fPIC"]
        flags = ["-fPIC", "-fvisibility=hidden", "-fopenmp", "-Wno-psabi"]
        if source.parent.name != "paddle":
            return [*self.compiler, *common, *flags]
        includes = [f"-I{self.package / 'include'}", f"-I{self.package / 'include/third_party'}"]
        includes += [f"-I{folder}" for folder in self.cuda_includes()]
        define = ["-D_GLIBCXX_USE_CXX11_ABI=1", *(["-DPADDLE_WITH_CUDA"] if self.cuda else [])]
        # Bindings only check and call: -O1 after -O3 compiles them in less time.
        return [*self.compiler, *common, "-O1", *flags, *define, *includes]

    def cuda_includes(self) -> list[Path]:
        """From CUDA 13 on, Thrust, which Paddle's headers include, is in a folder of its own."""
        folder = self.cuda_home() / "include"
        return [folder, folder / "cccl"] if self.cuda else []

    def cuda_home(self) -> Path:
        return Path(self.nvcc).resolve().parent.parent

    def link_command(self, objects: list[Path], result: Path) -> list[str]:
        """Paddle's own OpenMP comes first, so that one pool of threads serves Paddle, its matrix products and us."""
        base, libs = self.package / "base", self.package / "libs"
        own = libs / "libiomp5.so"
        openmp = [str(own)] if own.exists() else ["-fopenmp"]
        cuda = [f"-L{self.cuda_home() / 'lib64'}", "-lcudart"] if self.cuda else []
        return [*self.compiler, "-shared", "-o", str(result), *map(str, objects), *openmp, *cuda, f"-L{base}",
                "-l:libpaddle.so", f"-L{libs}", "-Wl,--allow-shlib-undefined"]  # fmt: skip


def found(*names: str) -> str:
    return next((name for name in names if shutil.which(name)), names[0])


class BuildLibrary(build_ext):
    """Compiles all sources at once, MAX_JOBS at a time, and links them."""

    def get_ext_filename(self, fullname: str) -> str:
        """Where the library goes: its name says for which Paddle it is, and fused_layers looks for that name."""
        return f"{Toolchain().tag}.so"

    def build_extension(self, ext: Extension) -> None:
        tools, result = Toolchain(), Path(self.get_ext_fullpath(ext.name)).resolve()
        folder = Path(self.build_temp).resolve()
        for path in (folder, result.parent):
            path.mkdir(parents=True, exist_ok=True)
        sources = tools.sources()
        objects = [folder / f"{source.parent.name}_{source.stem}.o" for source in sources]
        commands = [tools.compile_command(*pair) for pair in zip(sources, objects)]
        jobs = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(run, commands))
        run(tools.link_command(objects, result))


def run(command: list[str]) -> None:
    """Run a compiler; what it says is shown only if it fails."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{done.stdout}\nexternal_ops: this failed, see the messages above: {shlex.join(command)}")


setup(
    name="external_ops",
    version="1.0",
    description="Fused operations of pretraining for Paddle: norms, rotary positions, SwiGLU, losses, AdamW",
    python_requires=">=3.9",
    package_dir={"": "python"},
    packages=["fused_layers"],
    py_modules=["fused_ln", "fast_ln"],
    ext_modules=[Extension("fused_layers.operations", sources=[])],
    cmdclass={"build_ext": BuildLibrary},
    zip_safe=False,
)
