"""What holds for all operations of layers and training: any number of threads, lesser instruction sets, refusals."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import paddle
import pytest

from .reference import generator, normal


def results(rows=600, columns=513):
    """Every operation on inputs that are large enough for several threads: name -> arrays."""
    import fused_layers
    import fused_ln

    rng = generator(11)

    def leaf(*shape):
        return paddle.to_tensor(normal(rng, *shape), stop_gradient=False)

    def with_gradients(function, *inputs):
        outputs = function(*inputs)
        outputs = outputs if isinstance(outputs, list) else [outputs]
        (outputs[0] * outputs[0]).sum().backward()
        return [*outputs, *(x.grad for x in inputs if not x.stop_gradient)]

    x, other, scale, bias = leaf(rows, columns), leaf(rows, columns), leaf(columns), leaf(columns)
    heads, angles = leaf(3, 200, 4, 96), paddle.to_tensor(normal(rng, 1, 200, 1, 48))
    labels = paddle.to_tensor(rng.integers(0, columns, rows))
    log_sum = paddle.logsumexp(x.detach(), -1)
    state = [leaf(300_001).detach() for _ in range(2)] + [leaf(300_001).detach().abs()]
    fused_layers.fused_adamw_(*state, leaf(300_001).detach(), 1e-3, 0.9, 0.99, 1e-8, 0.1, 0.1, 0.01, 0.5)
    slopes = fused_layers.cross_entropy_slopes_(x.detach().clone(), labels, log_sum, 0, 0.5)
    made = {
        "rms_norm": with_gradients(lambda *a: fused_ln.fused_rms_norm(*a, 1e-5), x, scale),
        "layer_norm": with_gradients(lambda *a: fused_ln.fused_ln(*a, 1e-5), x, scale, bias),
        "add_rms_norm": with_gradients(lambda *a: fused_layers.fused_add_rms_norm(*a, 1e-5), x, other, scale),
        "rope": with_gradients(lambda a: fused_layers.fused_rope(a, angles.cos(), angles.sin()), heads),
        "pairs": with_gradients(lambda a: fused_layers.fused_rope(a, angles.cos(), angles.sin(), True), heads),
        "swiglu": with_gradients(fused_layers.fused_swiglu, x, other),
        "parts": fused_layers.cross_entropy_parts(x.detach(), labels, 0),
        "slopes": [slopes],
        "adamw": state,
        "squared_norm": [fused_layers.squared_norm(state[0])],
        "embedding": [fused_layers.embedding_grad(labels, other.detach(), columns)],
    }
    return {name: [np.array(y.numpy()) for y in ys] for name, ys in made.items()}


def digests(found):
    return {name: hashlib.sha256(b"".join(y.tobytes() for y in ys)).hexdigest() for name, ys in found.items()}


def test_results_do_not_depend_on_the_number_of_threads(threads):
    with threads(1):
        alone = digests(results())
    for count in (2, 3, 7):
        with threads(count):
            assert digests(results()) == alone


def test_lesser_instruction_sets_agree(external_ops, tmp_path):
    import fused_layers

    if fused_layers.ISA == "base":
        pytest.skip("this processor has no more than the base")
    best = results()
    for isa in ("base", "avx2")[: ("base", "avx2", "avx512").index(fused_layers.ISA)]:
        file = tmp_path / f"{isa}.npz"
        child(external_ops, f"from {__name__.rsplit('.', 1)[-1]} import save; save({isa!r}, {str(file)!r})", isa)
        with np.load(file) as found:
            for name, ys in best.items():
                for index, y in enumerate(ys):
                    other = found[f"{name}.{index}"]
                    np.testing.assert_allclose(other, y, rtol=2e-5, atol=2e-6 * np.abs(y).max(), err_msg=name)


def save(isa, file):
    """In the child."""
    import fused_layers

    assert isa == fused_layers.ISA
    np.savez(file, **{f"{name}.{index}": y for name, ys in results().items() for index, y in enumerate(ys)})


def child(external_ops, program, isa):
    here = os.path.dirname(__file__)
    paths = os.pathsep.join((str(external_ops), os.path.dirname(here)))
    environment = {**os.environ, "FUSED_OPS_ISA": isa, "PYTHONPATH": paths}
    program = program.replace("from test_", "from cpu.test_")
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def message(function, *inputs):
    with pytest.raises(Exception) as caught:
        function(*inputs)
    return str(caught.value)


def test_refusals_say_what_was_found_and_expected():
    import fused_layers
    import fused_ln

    x, scale = paddle.ones([3, 8]), paddle.ones([8])
    text = message(fused_ln.fused_rms_norm, x.astype("bfloat16"), scale, 1e-5)
    assert "fused_rms_norm: x is bfloat16 [3, 8]; expected float32, the only float type of the CPU operations" in text
    text = message(fused_ln.fused_ln, x, scale[:5], scale, 1e-5)
    assert "fused_ln: scale has shape [5]; expected [8]" in text
    text = message(fused_layers.fused_swiglu, x, scale)
    assert "fused_swiglu: up has shape [8]; expected [3, 8]" in text
    text = message(fused_layers.fused_rope, x, scale, scale)
    assert "fused_rope: x has shape [3, 8]; expected [batch, length, heads, dim]" in text
    text = message(fused_layers.fused_rope, paddle.ones([1, 4, 2, 6]), paddle.ones([1, 4, 1, 2]), scale)
    assert "fused_rope: cos has shape [1, 4, 1, 2]; expected [1, 4, 1, 3]" in text
    text = message(fused_layers.cross_entropy_parts, x, paddle.ones([3], "int32"))
    assert "cross_entropy_parts: labels is int32 [3]; expected int64" in text
    text = message(fused_layers.embedding_grad, paddle.to_tensor([0, 8, 1]), x, 8)
    assert "embedding_grad: ids has 8 at place 1; expected 0 to 7" in text
    text = message(fused_layers.fused_adamw_, x, x, x, scale, *[0.1] * 7)
    assert "fused_adamw_: gradient has shape [8]; expected [3, 8]" in text
    text = message(fused_layers.cross_entropy_slopes_, x, paddle.ones([3], "int64"), paddle.ones([3]), 0, scale)
    assert "cross_entropy_slopes_: scale has shape [8]; expected [1] or [3]" in text


def test_the_library_of_another_paddle_is_refused(external_ops, tmp_path):
    import shutil

    package = tmp_path / "fused_layers"
    shutil.copytree(external_ops / "fused_layers", package, ignore=shutil.ignore_patterns("__pycache__"))
    (library,) = package.glob("*.so")
    library.rename(package / "paddle_2.0.0_12345678.so")
    program = "import fused_layers"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert "ImportError: external_ops is not built for this Paddle: expected paddle_" in done.stderr
    assert "found paddle_2.0.0_12345678" in done.stderr
