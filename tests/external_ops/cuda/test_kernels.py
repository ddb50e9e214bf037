"""The CUDA kernels of external_ops: compiled by nvcc, and run on the CPU by the emulator of this folder."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
BENCHMARKS = ROOT / "benchmarks/cuda"
sys.path.insert(0, str(BENCHMARKS))

import cases  # noqa: E402
import checking  # noqa: E402
import floats  # noqa: E402
import library  # noqa: E402
import run  # noqa: E402

WIDTHS = [64, 65, 257, 1000, 4097]
FLAT = [1, 7, 1000, 2049]

needs_gxx = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")
needs_nvcc = pytest.mark.skipif(
    shutil.which("nvcc") is None, reason="nvcc is not installed: no CUDA kernel is compiled"
)


@pytest.fixture(scope="module")
def lib(emulated: Path) -> library.Library:
    return library.Library(emulated)


@pytest.fixture
def reversed_order(lib: library.Library) -> Iterator[Callable[[bool], None]]:
    yield lib.emulate_reversed
    lib.emulate_reversed(False)


def few_rows(cols: int) -> int:
    """More than the teams of all blocks of the emulated device where rows are short."""
    return 7 if cols < 1000 else 2


def all_cases() -> List[cases.Case]:
    made = list(cases.checks(WIDTHS, few_rows, FLAT))
    draw = cases.Draw(1)
    for pair in (("bfloat16", "bfloat16"), ("float32", "float32")):  # each team has several rows; the longest rows
        made += [cases.norm_grad(draw, 700, 64, pair, centred) for centred in (False, True)]
        made += [cases.norm_grad(draw, 50, 1032, pair, centred) for centred in (False, True)]
        made += [cases.norm_grad(draw, 2, 16384, pair, centred) for centred in (False, True)]
        made += [cases.norm(draw, 2, 16384, pair, centred) for centred in (False, True)]
        made += [cases.norm(draw, 1, 32776, pair, False), cases.norm_grad(draw, 2, 32776, pair, False)]
    return made


ALL = all_cases()
KERNELS = sorted({case.kernel for case in ALL})


@pytest.mark.parametrize("kernel", KERNELS)
def test_agrees_with_float64(lib: library.Library, kernel: str) -> None:
    for case in (case for case in ALL if case.kernel == kernel):
        right = checking.expected(case)
        for shift in (0, 1):
            errors = checking.errors(case, checking.results(lib, case, shift), right)
            assert max(errors.values()) <= 1, f"{case}, shift {shift}: {errors}"


@pytest.mark.parametrize("kernel", KERNELS)
def test_order_of_threads_changes_no_bit(lib: library.Library, reversed_order: Any, kernel: str) -> None:
    """A barrier that is missing, or an addition whose order is left to chance, would."""
    for case in [case for case in ALL if case.kernel == kernel][::3]:
        reversed_order(False)
        found = checking.results(lib, case)
        reversed_order(True)
        assert checking.same_bits(found, checking.results(lib, case)), str(case)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_every_number_is_read_and_written_as_it_is(lib: library.Library, dtype: str) -> None:
    """Turned by no angle, each of the 65536 comes back: the emulator converts as numpy does."""
    case = cases.rope(cases.Draw(), (1, 1, 32, 2048), dtype, False, False)
    bits = np.arange(2**16, dtype=np.uint16).reshape(1, 1, 32, 2048)
    with np.errstate(invalid="ignore"):
        values = floats.decode(bits.view(floats.STORED[dtype]), dtype)
    finite = np.isfinite(values)
    case.inputs["x"] = (np.where(finite, bits, 0).astype(np.uint16).view(floats.STORED[dtype]), dtype)
    case.inputs["cos"] = (np.ones((1, 1, 1, 1024), np.float32), "float32")
    case.inputs["sin"] = (np.zeros((1, 1, 1, 1024), np.float32), "float32")
    found = floats.decode(checking.results(lib, case)["y"], dtype)
    assert np.array_equal(found, np.where(finite, values, 0))


def test_rounds_like_numpy(lib: library.Library) -> None:
    for dtype in ("float16", "bfloat16"):
        case = cases.adamw(cases.Draw(), 5000, "float32", dtype)
        weights, _ = case.inputs["weight"]
        case.inputs["weight"] = (weights * np.logspace(-9, 6, 5000, dtype=np.float32), "float32")
        with np.errstate(over="ignore"):
            found = checking.results(lib, case)
            assert np.array_equal(found["rounded"], floats.encode(found["weight"], dtype))


def test_rope_in_place_and_back(lib: library.Library) -> None:
    case = cases.rope(cases.Draw(), (2, 3, 2, 32), "float32", True, False, 2)
    with checking.buffers(lib, case) as made:
        made["y"].free()
        made["y"] = library.Buffer(lib, case.inputs["x"][0], "float32")
        there = [made["y"] if x == "@x" else x for x in case.arguments]
        back = list(there)
        back[-2] = 1
        for arguments in (there, back):
            case.arguments = arguments
            lib.call("launch_rope", *checking.arguments(case, made))
        found = made["y"].read()
    assert np.allclose(found, case.inputs["x"][0], rtol=0, atol=1e-6)


def test_logits_of_minus_infinity(lib: library.Library) -> None:
    case = cases.cross_entropy_parts(cases.Draw(), 3, 70, "float32")
    logits, labels = np.array(case.inputs["logits"][0]), np.full(3, 75, np.int64)
    logits[0], logits[1, 5:], logits[2, 3] = -np.inf, -np.inf, np.nan
    case.inputs.update(logits=(logits, "float32"), labels=(labels, "int64"))
    found = checking.results(lib, case)
    powers = np.exp(logits[1, :5].astype(np.float64) - logits[1, :5].max())
    assert found["greatest"][0] == -np.inf and found["sum"][0] == 0
    assert found["greatest"][1] == logits[1, :5].max() and np.isclose(found["sum"][1], powers.sum())
    assert np.isnan(found["sum"][2])
    assert np.array_equal(found["picked"], logits[:, 5])


def test_ignored_rows_have_no_slope_whatever_is_in_them(lib: library.Library) -> None:
    case = cases.cross_entropy_slopes(cases.Draw(), 2, 33, "bfloat16", False)
    case.inputs["logits"] = (np.full((2, 33), 0x7FFF, np.uint16), "bfloat16")
    case.inputs["labels"] = (np.array([-100, 40]), "int64")
    found = floats.decode(checking.results(lib, case)["logits"], "bfloat16")
    assert (found[0] == 0).all() and np.isnan(found[1]).all()


def test_nothing_to_do(lib: library.Library) -> None:
    draw, pair = cases.Draw(), ("float32", "bfloat16")
    for case in (
        cases.norm(draw, 0, 64, pair, True),
        cases.norm_grad(draw, 0, 64, pair, True),
        cases.norm_grad(draw, 0, 64, pair, False),
        cases.cross_entropy_parts(draw, 0, 64, "float32"),
        cases.cross_entropy_slopes(draw, 0, 64, "float32", False),
        cases.rope(draw, (0, 3, 2, 8), "float16", False, False),
        cases.rope(draw, (2, 3, 0, 8), "float16", False, False),
        cases.embedding_grad(draw, 0, 5, 8, "float32"),
        cases.swiglu(draw, 0, "float16"),
        cases.swiglu_grad(draw, 0, "float16"),
        cases.adamw(draw, 0, "float32"),
        cases.squared_norm(draw, 0, "float32"),
    ):
        sums = [x for name, x in checking.results(lib, case).items() if name in ("dscale", "dbias", "out")]
        assert not any(x.any() for x in sums), str(case)


@pytest.mark.parametrize(
    "case",
    [
        cases.norm(cases.Draw(), 2, 64, ("float16", "float32"), False),
        cases.norm_grad(cases.Draw(), 2, 64, ("bfloat16", "float16"), True),
        cases.norm(cases.Draw(), 2, 0, ("float32", "float32"), False),
        cases.rope(cases.Draw(), (2, 3, 2, 8), "float32", False, False, tables=3),
        cases.rope(cases.Draw(), (2, 3, 2, 7), "float32", False, False),
        cases.adamw(cases.Draw(), 8, "float32", "float32"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_an_error(lib: library.Library, case: cases.Case) -> None:
    with pytest.raises(RuntimeError, match=f"launch_{case.kernel} returned CUDA error 1"):
        checking.results(lib, case)


MISTAKES = """
#include <cuda_runtime.h>
extern __shared__ float4 shared_memory[];
__global__ void neighbour(float* y, int mistake) {
  float* all = reinterpret_cast<float*>(shared_memory);
  all[threadIdx.x] = static_cast<float>(threadIdx.x);
  if (mistake != 1 && !(mistake == 2 && threadIdx.x < 32)) __syncthreads();
  y[threadIdx.x] = all[(threadIdx.x + 1) % blockDim.x];
}
extern "C" int launch_neighbour(float* y, int mistake) {
  cudaLaunchConfig_t config = {};
  config.blockDim = dim3(64);
  config.dynamicSmemBytes = mistake == 3 ? 240 : 256;
  return cudaLaunchKernelEx(&config, neighbour, y, mistake);
}
"""


@needs_gxx
def test_the_emulator_finds_mistakes(tmp_path: Path) -> None:
    source = tmp_path / "mistakes.cu"
    source.write_text(MISTAKES, encoding="utf-8")
    objects = []
    for file in (source, library.EMULATOR / "emulator.cc"):
        objects.append(tmp_path / f"{file.stem}.o")
        subprocess.run(library.emulator_command(objects[-1], file), check=True)
    compiled = str(tmp_path / "mistakes.so")
    subprocess.run(["g++", "-shared", *library.GXX_FLAGS, *map(str, objects), "-o", compiled], check=True)

    def answer(mistake: int, turned: int) -> str:
        code = (
            "import ctypes, sys; lib = ctypes.CDLL(sys.argv[1]); lib.emulator_set_reversed(int(sys.argv[2]))\n"
            "y = (ctypes.c_float * 64)(); assert lib.launch_neighbour(y, int(sys.argv[3])) == 0; print(list(y))"
        )
        command = [sys.executable, "-S", "-c", code, compiled, str(turned), str(mistake)]
        done = subprocess.run(command, capture_output=True, text=True)
        return done.stdout or done.stderr

    right = str([float((i + 1) % 64) for i in range(64)]) + "\n"
    assert answer(0, 0) == answer(0, 1) == right
    assert answer(1, 0) != answer(1, 1), "a barrier that is missing"
    assert "wait for each other for ever" in answer(2, 0)
    assert "shared memory beyond what was asked for" in answer(3, 0)


@needs_nvcc
def test_nvcc_compiles_every_kernel_without_a_warning(tmp_path: Path) -> None:
    """As the harness does it, for both generations of GPUs."""
    out = tmp_path / "libkernels.so"
    done = subprocess.run(library.nvcc_command(out, ["sm_80", "sm_90"]), capture_output=True, text=True)
    assert done.returncode == 0 and "warning" not in done.stderr.lower(), done.stdout + done.stderr
    functions = ctypes.CDLL(str(out))
    assert all(hasattr(functions, f"launch_{kernel}") for kernel in KERNELS)


@needs_nvcc
@needs_gxx
def test_bindings_for_gpus_compile(tmp_path: Path) -> None:
    """With the headers of whatever Paddle is here and those of CUDA: nothing is linked."""
    cuda = Path(shutil.which("nvcc") or "").resolve().parents[1] / "include"
    if not (cuda / "cuda_runtime.h").exists():
        real = subprocess.run(["nvcc", "--dryrun", "-x", "cu", "/dev/null"], capture_output=True, text=True).stderr
        cuda = Path(re.search(r"TOP=(.*)", real)[1].strip()) / "include"  # type: ignore[index]
    paddle = Path(importlib.util.find_spec("paddle").submodule_search_locations[0]) / "include"  # type: ignore
    bindings = library.SOURCES.parent / "paddle"
    source = tmp_path / "all.cc"
    names = [path for path in sorted(bindings.glob("*.cc")) if "FUSED_ON_GPU" in path.read_text(encoding="utf-8")]
    source.write_text("".join(f'#include "{path}"\n' for path in names), encoding="utf-8")
    folders = [paddle, paddle / "third_party", cuda, cuda / "cccl"]
    command = ["g++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-DPADDLE_WITH_CUDA"]
    command += ["-D_GLIBCXX_USE_CXX11_ABI=1", *(f"-isystem{folder}" for folder in folders), str(source)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert len(names) >= 3 and done.returncode == 0, done.stderr


EMULATED = ["--emulate", "--widths", "64", "65", "--rounds", "1", "--megabytes", "0.01"]
EMULATED += ["--timed-widths", "64", "65", "--vocabularies", "100"]


def test_harness(
    lib: library.Library, emulated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(run.library, "build_emulated", lambda folder: emulated)
    monkeypatch.setattr(run, "CALLS", 1)
    out = tmp_path / "results" / "emulated.json"
    assert run.main([*EMULATED, "--out", str(out)]) == 0
    record = json.loads(out.read_text(encoding="utf-8"))
    assert record["emulated"] and record["wrong"] == 0 and record["checked"] == len(record["checks"]) > 300
    assert {row["case"].split()[0] for row in record["timings"]} == set(KERNELS)
    row = next(row for row in record["timings"] if row["case"].startswith("rms_norm ["))
    assert row["aim"] == 0.85 and row["ms"] == 1.0 and row["share_of_copy"] > 0
    assert "0 wrong" in capsys.readouterr().out


def test_harness_says_what_is_wrong(
    emulated: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(run.library, "build_emulated", lambda folder: emulated)
    wrong = cases.norm(cases.Draw(), 3, 64, ("bfloat16", "bfloat16"), False)
    wrong.arguments = [0.1 if x == cases.EPSILON else x for x in wrong.arguments]
    monkeypatch.setattr(run.cases, "checks", lambda *sizes: iter([wrong]))
    assert run.main([*EMULATED, "--check-only"]) == 1
    assert "WRONG rms_norm [3, 64] bfloat16/bfloat16" in capsys.readouterr().out


def test_harness_without_a_compiler(capsys: pytest.CaptureFixture) -> None:
    assert run.main(["--nvcc", "no-such-nvcc"]) == 2
    assert "no-such-nvcc was not found" in capsys.readouterr().err


def test_an_error_is_counted_against_what_rounding_allows() -> None:
    right = cases.Expected(np.array([1.0, 256.0]), np.zeros(2))
    assert checking.error(np.array([1.0 + 2**-8, 256.0]), right, "bfloat16") == 1
    assert checking.error(np.array([1.0, 256.0 + 2]), right, "bfloat16") == 2
    assert checking.error(np.array([1.0, np.nan]), right, "bfloat16") == np.inf
