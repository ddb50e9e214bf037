"""Rates of single matrix products at the shapes of a training step: external_ops' own, and those of MKL inside Paddle.

    python benchmarks/cpu/gemm.py --lib FOLDER --threads 1 --out benchmarks/cpu/results/gemm.json

FOLDER holds the built modules (`python setup.py build --build-lib FOLDER` in external_ops); without --lib they must be
installed. With --torch-python PATH/TO/bin/python PyTorch's are measured in a process of its own. For each linear layer
of models A and B: y = x W, dx = dy W', dW = x' dy. Figures are GFLOP/s from the best of --rounds alternating rounds: of
CPU time with one thread, of wall time with several. Results with other numbers of threads in the same file are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

ROOT = Path(__file__).resolve().parents[2]
Shape = Tuple[str, int, int, int, bool, bool]
"""Name; rows, columns and depth of the product; which of its matrices are transposed."""

LAYERS = {
    "a": {"q, k, v, o": (2048, 256, 256), "gate, up": (2048, 256, 688), "down": (2048, 688, 256),
          "head": (1024, 256, 32000)},
    "b": {"q, o": (2048, 512, 512), "k, v": (2048, 512, 256), "gate, up": (2048, 512, 1376), "down": (2048, 1376, 512),
          "head": (1024, 512, 32000)},
}  # fmt: skip
"""Tokens, inputs and outputs of each; the head in blocks of rows."""


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lib", type=Path, help="folder of the modules, if they are not installed")
    parser.add_argument("--torch-python", help="Python of an environment with torch")
    parser.add_argument("--as-torch", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


def shapes() -> List[Shape]:
    made: List[Shape] = [("2048^3", 2048, 2048, 2048, False, False)]
    for model, layers in LAYERS.items():
        for name, (tokens, inputs, outputs) in layers.items():
            made.append((f"{model} {name}: y", tokens, outputs, inputs, False, False))
            made.append((f"{model} {name}: dx", tokens, inputs, outputs, False, True))
            made.append((f"{model} {name}: dW", inputs, outputs, tokens, True, False))
    return made


def sides(as_torch: bool) -> Tuple[Callable[..., Any], Dict[str, Callable[..., Any]]]:
    """How to make a matrix, and product(a, b, transpose_a, transpose_b) by name."""
    if as_torch:
        import torch

        def product(a: Any, b: Any, turn_a: bool, turn_b: bool) -> Any:
            return torch.matmul(a.t() if turn_a else a, b.t() if turn_b else b)

        return torch.randn, {"torch": product}
    from paddlenlp.utils.cpu_tuning import apply_cpu_tuning

    apply_cpu_tuning()
    import paddle
    from fused_layers import product as own

    paddle.set_device("cpu")
    return lambda *shape: paddle.randn(shape), {"external_ops": own, "mkl": paddle.matmul}


def measure(args: argparse.Namespace) -> Dict[str, Dict[str, float]]:
    """Shape -> side -> GFLOP/s."""
    clock = time.process_time if args.threads == 1 else time.perf_counter
    random, products = sides(args.as_torch)
    found: Dict[str, Dict[str, float]] = {}
    for name, rows, columns, depth, turn_a, turn_b in shapes():
        a = random(*((depth, rows) if turn_a else (rows, depth)))
        b = random(*((columns, depth) if turn_b else (depth, columns)))
        work = 2e-9 * rows * columns * depth
        times: Dict[str, List[float]] = {side: [] for side in products}
        for number in range(args.rounds + 1):
            for side, product in products.items():
                start, repeats = clock(), max(1, int(0.5 / work))
                for _ in range(repeats):
                    product(a, b, turn_a, turn_b)
                times[side] += [(clock() - start) / repeats] if number else []
        found[name] = {side: round(work / min(taken), 1) for side, taken in times.items()}
    return found


def main() -> None:
    args = parse()
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads)))
    sys.path[:0] = [*([str(args.lib)] if args.lib else []), str(ROOT)]
    found = measure(args)
    if args.as_torch:
        return print(json.dumps(found))
    if args.torch_python:
        command = [args.torch_python, __file__, "--as-torch", "--threads", str(args.threads)]
        done = subprocess.run([*command, "--rounds", str(args.rounds)], check=True, capture_output=True, text=True)
        for name, rates in json.loads(done.stdout.splitlines()[-1]).items():
            found[name].update(rates)
    for name, rates in found.items():
        print(f"{name:22s}" + "".join(f"  {side} {rate:6.1f}" for side, rate in rates.items()))
    if args.out:
        kept = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
        kept[f"{args.threads} threads"] = {"load": round(os.getloadavg()[0], 1), "gflops": found}
        args.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
