"""Time of each operation of external_ops for CPUs beside Paddle's own operations and the hand-written ones of nn/cpu.

    python benchmarks/cpu/ops.py --lib FOLDER --threads 1 --out benchmarks/cpu/results/ops.json

FOLDER holds the built modules (`python setup.py build --build-lib FOLDER` in external_ops); without --lib they have to
be installed. The sides of an operation take turns; the figure of each is its median in milliseconds, of CPU time with
one thread, of wall time with several. Forward and backward passes go through Paddle's autograd. Shapes are those of
model A (2048 tokens, hidden 256). Results of runs with other numbers of threads in the same file are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List

ROOT = Path(__file__).resolve().parents[2]
TOKENS, HIDDEN, INNER, HEADS, VOCAB, LENGTH = 2048, 256, 688, 4, 32000, 512

Sides = Dict[str, Callable[[], Any]]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lib", type=Path, help="folder of the modules, if they are not installed")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def both_ways(function: Callable[..., Any], *inputs: Any) -> Callable[[], None]:
    """Forward and backward, with a gradient of ones."""
    import paddle

    def run() -> None:
        for x in inputs:
            x.clear_gradient(set_to_zero=False)
        y = function(*inputs)
        paddle.autograd.backward([y], [ones[tuple(y.shape)]])

    ones = {tuple(function(*inputs).shape): paddle.ones(function(*inputs).shape)}
    return run


def norms() -> Dict[str, Sides]:
    import fused_layers
    import fused_ln
    import paddle
    from paddle.nn import functional as F

    from paddlenlp.nn import cpu, plain

    x, other, scale, bias = leaf(TOKENS, HIDDEN), leaf(TOKENS, HIDDEN), leaf(HIDDEN), leaf(HIDDEN)
    theirs = cpu.kernels()["rms_norm"]
    assert paddle.get_device() == "cpu"
    return {
        "rms_norm": {
            "paddle": both_ways(lambda a, w: plain.rms_norm(a, w, 1e-5), x, scale),
            "nn/cpu": both_ways(lambda a, w: theirs(a, w, 1e-5), x, scale),
            "external": both_ways(lambda a, w: fused_ln.fused_rms_norm(a, w, 1e-5)[0], x, scale),
        },
        "add_rms_norm": {
            "paddle": both_ways(lambda a, b, w: plain.rms_norm(a + b, w, 1e-5), x, other, scale),
            "nn/cpu": both_ways(lambda a, b, w: theirs(a + b, w, 1e-5), x, other, scale),
            "external": both_ways(lambda a, b, w: fused_layers.fused_add_rms_norm(a, b, w, 1e-5)[0], x, other, scale),
        },
        "layer_norm": {
            "paddle": both_ways(lambda a, w, b: F.layer_norm(a, [HIDDEN], w, b, 1e-5), x, scale, bias),
            "external": both_ways(lambda a, w, b: fused_ln.fused_ln(a, w, b, 1e-5)[0], x, scale, bias),
        },
    }


def activations() -> Dict[str, Sides]:
    import fused_layers
    import paddle
    from paddle.nn import functional as F

    from paddlenlp.nn import cpu, plain

    kernels = cpu.kernels()
    x = leaf(TOKENS // LENGTH, LENGTH, HEADS, HIDDEN // HEADS)
    angles = paddle.randn([1, LENGTH, 1, HIDDEN // HEADS // 2])
    cos, sin = angles.cos(), angles.sin()
    gate, up = leaf(TOKENS, INNER), leaf(TOKENS, INNER)
    return {
        "rope": {
            "paddle": both_ways(lambda a: plain.rotate(a, cos, sin), x),
            "nn/cpu": both_ways(lambda a: kernels["rotate"](a, cos, sin), x),
            "external": both_ways(lambda a: fused_layers.fused_rope(a, cos, sin), x),
        },
        "swiglu": {
            "paddle": both_ways(F.swiglu, gate, up),
            "nn/cpu": both_ways(kernels["swiglu"], gate, up),
            "external": both_ways(fused_layers.fused_swiglu, gate, up),
        },
    }


def training() -> Dict[str, Sides]:
    import fused_layers
    import paddle
    from paddle.nn import functional as F

    logits = paddle.randn([512, VOCAB])
    labels = paddle.randint(0, VOCAB, [512])
    table = leaf(VOCAB, HIDDEN)
    ids, grad = paddle.randint(0, VOCAB, [TOKENS]), paddle.randn([TOKENS, HIDDEN])

    def theirs() -> None:
        made = logits.detach().clone()
        made.stop_gradient = False
        F.cross_entropy(made, labels).backward()

    def ours() -> None:
        made = logits.clone()
        top, total, _ = fused_layers.cross_entropy_parts(made, labels)
        fused_layers.cross_entropy_slopes_(made, labels, top + paddle.log(total), 0, 1 / 512)

    def look_up() -> None:
        table.clear_gradient(set_to_zero=False)
        F.embedding(ids, table).backward(grad)

    return {
        "cross_entropy of 512 rows": {"paddle": theirs, "external": ours},
        "embedding_grad": {"paddle": look_up, "external": lambda: fused_layers.embedding_grad(ids, grad, VOCAB)},
        **optimizer(),
    }


def optimizer() -> Dict[str, Sides]:
    """Of 8,192,000 parameters: the embedding of the model."""
    import fused_layers
    import paddle

    weight, m1, m2, grad = (paddle.rand([VOCAB, HIDDEN]) for _ in range(4))
    rate, power1, power2 = (paddle.full([1], x) for x in (1e-3, 0.9, 0.99))

    def merged() -> None:
        weight.scale_(0.9999)
        lists = ([weight], [grad], [rate], [m1], [m2], None, [power1], [power2], None)
        paddle._C_ops.merged_adam_(*lists, 0.9, 0.99, 1e-8, False, False, False)

    def single() -> None:
        args = (weight, grad, rate, m1, m2, None, power1, power2, None, None, 0.9, 0.99, 1e-8, 1.0, 0.1, True)
        paddle._C_ops.adamw_(*args, False, 1000, False, False, False)

    def ours() -> None:
        fused_layers.fused_adamw_(weight, m1, m2, grad, 1e-3, 0.9, 0.99, 1e-8, 0.1, 0.1, 0.01, 1.0)

    return {
        "adamw": {"paddle": single, "nn/cpu": merged, "external": ours},
        "squared_norm": {
            "paddle": lambda: paddle._C_ops.squared_l2_norm(grad),
            "external": lambda: fused_layers.squared_norm(grad),
        },
    }


def leaf(*shape: int) -> Any:
    import paddle

    x = paddle.randn(shape)
    x.stop_gradient = False
    return x


def measure(sides: Sides, rounds: int, clock: Callable[[], float]) -> Dict[str, float]:
    """Medians in milliseconds; the sides take turns."""
    found: Dict[str, List[float]] = {name: [] for name in sides}
    for turn in range(rounds + 3):
        for name, run in sides.items():
            start = clock()
            run()
            if turn >= 3:
                found[name].append(clock() - start)
    return {name: round(statistics.median(times) * 1e3, 3) for name, times in found.items()}


def save(path: Path, threads: int, results: Dict[str, Dict[str, float]]) -> None:
    import fused_layers
    import paddle

    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    known["machine"] = f"{platform.machine()}, {os.cpu_count()} cores, {fused_layers.ISA}, Paddle {paddle.__version__}"
    kind = "CPU" if threads == 1 else "wall"
    known[f"{threads} threads, {kind} ms"] = {
        "date": time.strftime("%Y-%m-%d"),
        "load average": round(os.getloadavg()[0], 1),
        **results,
    }
    path.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    args = parse()
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    sys.path[:0] = [str(ROOT), *([str(args.lib)] if args.lib else [])]
    from paddlenlp.utils.cpu_tuning import apply_cpu_tuning

    apply_cpu_tuning()
    clock = time.process_time if args.threads == 1 else time.perf_counter
    results = {}
    for group in (norms, activations, training):
        for name, sides in group().items():
            results[name] = measure(sides, args.rounds, clock)
            print(f"{name:28}", *(f"{side} {ms:9.3f}" for side, ms in results[name].items()), flush=True)
    if args.out:
        save(args.out, args.threads, results)


if __name__ == "__main__":
    main()
