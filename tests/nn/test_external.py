"""Modules in the place of external_ops that are right, wrong, damaged or deadly: a run has the plain path's losses."""

from __future__ import annotations

import shutil
import sys
import sysconfig
from pathlib import Path

import fake_external
import numpy as np
import paddle
import pytest

from paddlenlp.nn import configure_run, external, kernels, plain
from paddlenlp.parallel.group import SoloGroup
from paddlenlp.trainer.optimizer import build_optimizer
from paddlenlp.trainer.training_args import TrainingArguments
from paddlenlp.utils.errors import UsageError

RIGHT = {"fused_ln": fake_external.FUSED_LN, "fused_layers": fake_external.FUSED_LAYERS}
OFF = {flag: False for flag in kernels.FLAGS if flag != "use_fast_layer_norm"}
WRONG = "\ndef fused_rms_norm(x, scale, epsilon):\n    return [plain.rms_norm(x, scale, epsilon) * 1.01, None]\n"
RAISES = "\ndef fused_rms_norm(x, scale, epsilon):\n    raise RuntimeError('no kernel for\\nthis')\n"
NOT_A_NUMBER = "\ndef fused_rms_norm(x, scale, epsilon):\n    return [x * scale * float('nan'), None]\n"
DEADLY = "\ndef fused_rms_norm(x, scale, epsilon):\n    import os\n    os.kill(os.getpid(), 4)\n"
DEADLY_IMPORT = "import os\nos.kill(os.getpid(), 11)\n"
LEAVES = "import os\nos._exit(3)\n"
DETACHED = "\ndef fused_rms_norm(x, scale, epsilon):\n    return [plain.rms_norm(x, scale, epsilon).detach(), None]\n"


@pytest.fixture(autouse=True)
def _restore():
    yield
    kernels.configure()


def used():
    return {state.op: state.module for state in kernels.states() if state.used}


def losses(build, batch, **flags):
    """Three steps of a tiny model."""
    paddle.seed(5)
    args = TrainingArguments("unused", learning_rate=1e-2, weight_decay=0.1, max_grad_norm=1.0, **flags)
    configure_run(args)
    model = build()
    optimizer = build_optimizer(model, args)
    found = []
    for _ in range(3):
        found.append(float(model.train_batch([batch])))
        optimizer.step()
        optimizer.clear_grad()
    return found


def test_right_modules_are_used_and_give_the_plain_losses(monkeypatch, tmp_path, build, batch):
    fake_external.install(monkeypatch, tmp_path, **RIGHT)
    wanted = losses(build, batch, **OFF)
    assert kernels.report() == []
    found = losses(build, batch)
    layers = ("rotate", "swiglu", "embedding", "cross_entropy", "head_loss", "adamw", "squared_norm")
    assert used() == {"rms_norm": "fused_ln", **dict.fromkeys(layers, "fused_layers")}
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    assert kernels.report()[0].startswith("Fused operations, checked against the plain ones: rms_norm of fused_ln")


def test_each_operation_is_called(monkeypatch, tmp_path, build, batch):
    fake_external.install(monkeypatch, tmp_path, **RIGHT)
    configure_run(TrainingArguments("unused"))
    called = set()
    for module in ("fused_ln", "fused_layers"):
        for name in [name for name, value in vars(sys.modules[module]).items() if callable(value)]:
            function = getattr(sys.modules[module], name)
            monkeypatch.setattr(
                sys.modules[module], name, lambda *args, n=name, f=function: called.add(n) or f(*args), raising=True
            )
    model = build()
    optimizer = build_optimizer(model, TrainingArguments("unused"))
    model.train_batch([batch])
    optimizer.step()
    assert called == {
        "fused_rms_norm", "fused_rope", "fused_swiglu", "embedding_grad", "cross_entropy_parts",
        "cross_entropy_slopes_", "fused_adamw_", "squared_norm",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (
            fake_external.FUSED_LN + WRONG,
            "'s failed its self-check: its result differs by 1e-02 of the largest element",
        ),
        (fake_external.FUSED_LN + RAISES, "'s failed its self-check: it raises RuntimeError: no kernel for this"),
        (fake_external.FUSED_LN + NOT_A_NUMBER, "'s failed its self-check: its result differs by nan"),
        (fake_external.FUSED_LN + DETACHED, "'s failed its self-check: it gives no gradient 0"),
        (fake_external.FUSED_LN + DEADLY, "'s failed its self-check: it ended a trial process with SIGILL"),
        (DEADLY_IMPORT, " can't be used: it ended a trial process with SIGSEGV"),
        (LEAVES, " can't be used: it ended a trial process with exit code 3"),
        ("from paddlenlp.nn import plain\n", " can't be used: it has no fused_rms_norm, so it is of another version"),
        ("import a_module_that_is_not_there\n", " can't be used: it raises ModuleNotFoundError"),
        ("def (\n", " can't be used: it raises SyntaxError"),
    ],
    ids=["wrong", "raises", "nan", "detached", "deadly", "deadly import", "leaves", "older", "lacking", "torn"],
)
def test_a_bad_module_is_not_used_and_one_line_says_why(monkeypatch, tmp_path, build, batch, source, why):
    wanted = losses(build, batch, **OFF)
    fake_external.install(monkeypatch, tmp_path, **{**RIGHT, "fused_ln": source})
    found = losses(build, batch, use_fused_rms_norm=True)
    assert "rms_norm" not in used() and used()["swiglu"] == "fused_layers"
    (line,) = [line for line in kernels.report() if "rms_norm" in line]
    assert line.startswith("rms_norm: the toolkit's own instead") and f", because fused_ln{why}" in line
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    with pytest.raises(UsageError, match="use_fused_rms_norm is require"):
        configure_run(TrainingArguments("unused", use_fused_rms_norm="require"))


def damaged(good, kind):
    """The bytes of a shared library, damaged."""
    half = len(good) // 2
    return {
        "garbage": b"\x00\x01not a library" * 100,
        "empty": b"",
        "cut short": good[:half],
        "zeros at the end": good[:half] + bytes(len(good) - half),
        "zeros at the start": bytes(half) + good[half:],
    }[kind]


@pytest.mark.parametrize("kind", ["garbage", "empty", "cut short", "zeros at the end", "zeros at the start"])
def test_a_damaged_shared_library_harms_nothing(monkeypatch, tmp_path, kind):
    import _ctypes

    (tmp_path / "library.so").write_bytes(damaged(Path(_ctypes.__file__).read_bytes(), kind))
    source = f"import ctypes\nctypes.CDLL({str(tmp_path / 'library.so')!r}).anything\n" + fake_external.FUSED_LN
    fake_external.install(monkeypatch, tmp_path, fused_ln=source)
    configure_run(TrainingArguments("unused"))
    assert used() == {}
    assert any("fused_ln can't be used: it " in line for line in kernels.report())


def test_a_library_of_another_interface_harms_nothing(monkeypatch, tmp_path):
    """An extension module that is no module of this name: what a wheel for another Python looks like."""
    import _ctypes

    fake_external.install(monkeypatch, tmp_path, fused_ln="")
    (tmp_path / "fused_ln.py").unlink()
    shutil.copy(_ctypes.__file__, tmp_path / f"fused_ln{sysconfig.get_config_var('EXT_SUFFIX')}")
    configure_run(TrainingArguments("unused"))
    assert [line for line in kernels.report() if "fused_ln can't be used: it raises ImportError" in line]


def test_fast_norms_come_first_where_they_are_asked_for(monkeypatch, tmp_path):
    fast = fake_external.FUSED_LN.replace("fused_rms_norm", "fast_rms_norm").replace("fused_ln", "fast_ln")
    fake_external.install(monkeypatch, tmp_path, **RIGHT, fast_ln=fast)
    arguments = TrainingArguments("unused")
    kernels.configure(arguments)
    assert used()["rms_norm"] == "fused_ln"
    arguments.use_fast_layer_norm = True
    kernels.configure(arguments)
    assert used()["rms_norm"] == used()["layer_norm"] == "fast_ln"
    (tmp_path / "fast_ln.py").write_text(DEADLY_IMPORT)
    sys.modules.pop("fast_ln")
    kernels.configure(arguments)
    assert used()["rms_norm"] == "fused_ln"
    assert [line for line in kernels.report() if line.startswith("rms_norm of fused_ln in place of fast_ln's: ")]


class TwoRanks(SoloGroup):
    """The first of two ranks that have the same numbers."""

    size = 2
    rank = 0

    def all_gather(self, x):
        class Handle:
            def wait(self):
                return paddle.concat([x, x + paddle.to_tensor([1.0, 0.0, 0.0]).reshape([3, 1])])

        return Handle()


def test_cross_entropy_exchanges_what_the_plain_one_does(monkeypatch, tmp_path):
    """So that ranks may differ in which of them they run."""
    fake_external.install(monkeypatch, tmp_path, **RIGHT)
    labels, results = paddle.to_tensor([1, 3, -100]), []
    for kernel in (plain.cross_entropy, external.cross_entropy):
        logits = paddle.to_tensor(np.random.RandomState(0).randn(3, 6).astype("float32"), stop_gradient=False)
        loss = kernel(logits, labels, TwoRanks())
        (loss * paddle.to_tensor([1.0, 2.0, 3.0])).sum().backward()
        results.append((loss.numpy(), logits.grad.numpy()))
    for mine, wanted in zip(*results):
        np.testing.assert_allclose(mine, wanted, rtol=1e-5, atol=1e-6)


def test_what_an_operation_can_not_do_is_left_to_the_plain_one(monkeypatch, tmp_path):
    fake_external.install(monkeypatch, tmp_path)  # nothing is there, so a call of a module would raise
    x = paddle.randn([2, 4])
    layer_norm = external.layer_norm_of("fused_ln", "fused_ln")
    np.testing.assert_array_equal(layer_norm(x, x[0], None, 1e-5), plain.layer_norm(x, x[0], None, 1e-5))
    with pytest.raises(ImportError):
        layer_norm(x, x[0], x[1], 1e-5)
