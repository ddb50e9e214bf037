"""What the harness runs: each kernel's arguments, what float64 says of its results, and the bytes it has to move."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator, List, Mapping, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from floats import STORED, TYPES, decode, encode

PAIRS: List[Tuple[str, str]] = [
    ("float32", "float32"),
    ("float16", "float16"),
    ("bfloat16", "bfloat16"),
    ("float32", "float16"),
    ("float32", "bfloat16"),
]
"""Types of inputs and weights of the norms."""

BASE = 1 << 20
"""Numbers that are drawn for a tensor; larger ones repeat them."""

Values = Mapping[str, np.ndarray]


class Expected(NamedTuple):
    """What a result should be, float64, and how large the numbers are that it is the sum of: float32 loses that times
    its unit, however exact the kernel."""

    value: np.ndarray
    size: np.ndarray


@dataclass
class Case:
    """One call of one kernel.

    Args:
        kernel: the launcher without "launch_".
        about: the sizes, for people.
        inputs: name -> (what is stored, type).
        results: name -> (shape, type); a result that is an input too is written in place.
        arguments: what the launcher gets but the stream; strings that start with "@" name buffers, "@workspace" too.
        expected: inputs as float64 -> name of a result -> what it should be.
        workspace: function and arguments that answer the bytes of the workspace.
        types: of inputs and weights, for people.
    """

    kernel: str
    about: str
    inputs: Dict[str, Tuple[np.ndarray, str]]
    results: Mapping[str, Tuple[Tuple[int, ...], str]]
    arguments: Sequence[Any]
    expected: Callable[[Values], Dict[str, Expected]]
    workspace: Optional[Tuple[Any, ...]] = None
    types: str = ""

    def __str__(self) -> str:
        return f"{self.kernel} {self.about} {self.types}"

    @property
    def bytes(self) -> int:
        """Each input read once and each result written once; what is updated in place counts twice."""
        read = sum(stored.nbytes for stored, _ in self.inputs.values())
        written = (int(np.prod(shape)) * np.dtype(STORED[dtype]).itemsize for shape, dtype in self.results.values())
        return read + sum(written)


class Draw:
    """Random tensors, the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)

    def normal(self, shape: Tuple[int, ...], dtype: str, mean: float = 0.0, spread: float = 1.0) -> Any:
        """(stored, type) of normal numbers."""
        count = min(int(np.prod(shape)), BASE)
        base = encode(mean + spread * self._rng.standard_normal(count), dtype)
        return np.resize(base, shape), dtype

    def integers(self, shape: Tuple[int, ...], low: int, high: int) -> Any:
        return self._rng.integers(low, high, shape), "int64"


def _wide(x: float) -> float:
    """A float as the kernels get it."""
    return float(np.float32(x))


EPSILON = 1e-5


def norm(draw: Draw, rows: int, cols: int, pair: Tuple[str, str], centred: bool, residual: bool = False) -> Case:
    """Layer norm, RMS norm, or the addition of a residual with an RMS norm."""
    x, w = pair
    inputs = {"x": draw.normal((rows, cols), x, 0.5, 2.0), "scale": draw.normal((cols,), w, 1.0, 0.5)}
    results: Dict[str, Any] = {"y": ((rows, cols), w), "invvar": ((rows,), "float32")}
    arguments: List[Any]
    if centred:
        inputs["bias"] = draw.normal((cols,), w)
        results["mean"] = ((rows,), "float32")
        arguments = ["@x", "@scale", "@bias", "@y", "@mean", "@invvar"]
    else:
        arguments = ["@x", "@residual" if residual else None, "@scale", "@y", "@sum" if residual else None, "@invvar"]
    if residual:
        inputs["residual"] = draw.normal((rows, cols), x)
        results["sum"] = ((rows, cols), x)

    def expected(v: Values) -> Dict[str, Expected]:
        source, found = v["x"], {}
        if residual:
            source = decode(encode((v["x"] + v["residual"]).astype(np.float32), x), x)
            found["sum"] = Expected(source, 0 * source)
        mean = source.mean(-1, keepdims=True) if centred else np.zeros((rows, 1))
        invvar = 1 / np.sqrt(((source - mean) ** 2).mean(-1, keepdims=True) + _wide(EPSILON))
        bias = v.get("bias", np.zeros(cols))
        size = (np.abs(source) + np.abs(mean)) * invvar * np.abs(v["scale"]) + np.abs(bias)
        found["y"] = Expected((source - mean) * invvar * v["scale"] + bias, size)
        found["invvar"] = Expected(invvar[:, 0], invvar[:, 0])
        if centred:
            found["mean"] = Expected(mean[:, 0], np.abs(source).mean(-1))
        return found

    name = "layer_norm" if centred else "rms_norm"
    about = f"[{rows}, {cols}]" + (" with a residual" if residual else "")
    return Case(name, about, inputs, results, [*arguments, rows, cols, EPSILON, x, w], expected, types=f"{x}/{w}")


def norm_grad(draw: Draw, rows: int, cols: int, pair: Tuple[str, str], centred: bool, dsum: bool = False) -> Case:
    """Gradients of a norm; `dsum`: with a gradient of the sum too."""
    x, w = pair
    inputs = {
        "x": draw.normal((rows, cols), x, 0.5, 2.0),
        "scale": draw.normal((cols,), w, 1.0, 0.5),
        "invvar": draw.normal((rows,), "float32", 0.5, 0.05),
        "dy": draw.normal((rows, cols), w),
    }
    results = {"dx": ((rows, cols), x), "dscale": ((cols,), w)}
    arguments: List[Any]
    if centred:
        inputs["mean"] = draw.normal((rows,), "float32", 0.5, 0.1)
        results["dbias"] = ((cols,), w)
        arguments = ["@x", "@scale", "@mean", "@invvar", "@dy", "@dx", "@dscale", "@dbias", "@workspace"]
    else:
        arguments = ["@x", "@scale", "@invvar", "@dy", "@dsum" if dsum else None, "@dx"]
        arguments += ["@dresidual" if dsum else None, "@dscale", "@workspace"]
    if dsum:
        inputs["dsum"] = draw.normal((rows, cols), x)
        results["dresidual"] = ((rows, cols), x)

    def expected(v: Values) -> Dict[str, Expected]:
        invvar, dy, mean = v["invvar"][:, None], v["dy"], v["mean"][:, None] if centred else np.zeros((rows, 1))
        normed, g, other = (v["x"] - mean) * invvar, dy * v["scale"], v.get("dsum", np.zeros((1, 1)))
        along, level = (g * normed).mean(-1, keepdims=True), g.mean(-1, keepdims=True) * centred
        size = np.abs(g) + np.abs(g).mean(-1, keepdims=True) * centred
        size = size + np.abs(normed) * np.abs(g * normed).mean(-1, keepdims=True)
        found = {
            "dx": Expected(invvar * (g - level - normed * along) + other, invvar * size + np.abs(other)),
            "dscale": Expected((dy * normed).sum(0), np.abs(dy * normed).sum(0)),
        }
        if dsum:
            found["dresidual"] = found["dx"]
        if centred:
            found["dbias"] = Expected(dy.sum(0), np.abs(dy).sum(0))
        return found

    name = ("layer_norm" if centred else "rms_norm") + "_grad"
    about = f"[{rows}, {cols}]" + (" with a gradient of the sum" if dsum else "")
    space = ("norm_grad_workspace", rows, cols, int(centred))
    return Case(name, about, inputs, results, [*arguments, rows, cols, x, w], expected, space, f"{x}/{w}")


def rope(
    draw: Draw, shape: Tuple[int, int, int, int], dtype: str, interleaved: bool, inverse: bool, tables: int = 1
) -> Case:
    """Rotary positions of [batch, seq, heads, dim], with angles for `tables` sequences."""
    batch, seq, heads, dim = shape
    angles = np.random.default_rng(1).uniform(0, 7, (tables, seq, 1, dim // 2))
    inputs = {
        "x": draw.normal(shape, dtype),
        "cos": (np.cos(angles).astype(np.float32), "float32"),
        "sin": (np.sin(angles).astype(np.float32), "float32"),
    }

    def expected(v: Values) -> Dict[str, Expected]:
        first, second = (
            (slice(0, None, 2), slice(1, None, 2)) if interleaved else (slice(dim // 2), slice(dim // 2, None))
        )
        a, b, cos, sin = v["x"][..., first], v["x"][..., second], v["cos"], v["sin"] * (-1 if inverse else 1)
        y, size = np.empty(shape), np.empty(shape)
        y[..., first], y[..., second] = a * cos - b * sin, b * cos + a * sin
        size[..., first], size[..., second] = np.abs(a * cos) + np.abs(b * sin), np.abs(b * cos) + np.abs(a * sin)
        return {"y": Expected(y, size)}

    flags = [int(interleaved), int(inverse)]
    about = f"{list(shape)}{' interleaved' if interleaved else ''}{' inverse' if inverse else ''}"
    arguments = ["@x", "@cos", "@sin", "@y", *shape, tables, *flags, dtype]
    return Case("rope", about, inputs, {"y": (shape, dtype)}, arguments, expected, types=dtype)


def swiglu(draw: Draw, count: int, dtype: str) -> Case:
    inputs = {"gate": draw.normal((count,), dtype, 0, 4.0), "up": draw.normal((count,), dtype)}

    def expected(v: Values) -> Dict[str, Expected]:
        y = v["gate"] * _sigmoid(v["gate"]) * v["up"]
        return {"y": Expected(y, np.abs(y))}

    arguments = ["@gate", "@up", "@y", count, dtype]
    return Case("swiglu", f"[{count}]", inputs, {"y": ((count,), dtype)}, arguments, expected, types=dtype)


def swiglu_grad(draw: Draw, count: int, dtype: str) -> Case:
    inputs = {"gate": draw.normal((count,), dtype, 0, 4.0)}
    inputs.update({name: draw.normal((count,), dtype) for name in ("up", "dy")})

    def expected(v: Values) -> Dict[str, Expected]:
        gate, up, dy, s = v["gate"], v["up"], v["dy"], _sigmoid(v["gate"])
        size = np.abs(dy * up * s) * (1 + np.abs(gate) * (1 - s) + np.abs(gate))
        return {
            "dgate": Expected(dy * up * s * (1 + gate * (1 - s)), size),
            "dup": Expected(dy * gate * s, np.abs(dy * gate * s)),
        }

    results = {"dgate": ((count,), dtype), "dup": ((count,), dtype)}
    arguments = ["@gate", "@up", "@dy", "@dgate", "@dup", count, dtype]
    return Case("swiglu_grad", f"[{count}]", inputs, results, arguments, expected, types=dtype)


def cross_entropy_parts(draw: Draw, rows: int, cols: int, dtype: str) -> Case:
    """Of the second of three ranks, so that some labels are not here; every seventh is ignored."""
    first, labels = cols, draw.integers((rows,), 0, 3 * cols)
    labels[0][::7] = -100
    inputs = {"logits": draw.normal((rows, cols), dtype, 0, 3.0), "labels": labels}

    def expected(v: Values) -> Dict[str, Expected]:
        logits, own = v["logits"], v["labels"] - first
        greatest = logits.max(-1)
        total = np.exp(logits - greatest[:, None]).sum(-1)
        here = (own >= 0) & (own < cols)
        picked = np.where(here, logits[np.arange(rows), np.where(here, own, 0)], 0)
        size = total * (1 + np.abs(logits).max(-1))
        return {
            "greatest": Expected(greatest, 0 * greatest),
            "sum": Expected(total, size),
            "picked": Expected(picked, 0 * picked),
        }

    results = {name: ((rows,), "float32") for name in ("greatest", "sum", "picked")}
    arguments = ["@logits", "@labels", "@greatest", "@sum", "@picked", rows, cols, first, dtype]
    return Case("cross_entropy_parts", f"[{rows}, {cols}]", inputs, results, arguments, expected, types=dtype)


def cross_entropy_slopes(draw: Draw, rows: int, cols: int, dtype: str, by_row: bool) -> Case:
    """The same rank; `by_row`: with a scale for each row."""
    first, labels = cols, draw.integers((rows,), 0, 3 * cols)
    labels[0][::7] = -100
    inputs = {
        "logits": draw.normal((rows, cols), dtype, 0, 3.0),
        "labels": labels,
        "log_sum": draw.normal((rows,), "float32", np.log(3 * cols) + 4.5, 0.1),
        "scale": draw.normal((rows if by_row else 1,), "float32"),
    }

    def expected(v: Values) -> Dict[str, Expected]:
        own, log_sum = v["labels"][:, None] - first, v["log_sum"][:, None]
        scales = np.where(v["labels"] >= 0, v["scale"], 0)[:, None]
        power, hit = np.exp(v["logits"] - log_sum), own == np.arange(cols)
        size = np.abs(scales) * (power * (1 + np.abs(v["logits"]) + np.abs(log_sum)) + hit)
        return {"logits": Expected(scales * (power - hit), size)}

    arguments = ["@logits", "@labels", "@log_sum", "@scale", rows if by_row else 1, rows, cols, first, dtype]
    results = {"logits": ((rows, cols), dtype)}
    return Case("cross_entropy_slopes", f"[{rows}, {cols}]", inputs, results, arguments, expected, types=dtype)


def embedding_grad(draw: Draw, tokens: int, rows: int, cols: int, dtype: str, common: float = 0.3) -> Case:
    """Of a vocabulary of `rows`; one id has the share `common` of the tokens, and ids beyond both ends are left out."""
    ids, _ = draw.integers((tokens,), -1, rows + 1)
    ids[draw.integers((tokens,), 0, 1000)[0] < 1000 * common] = rows // 2
    inputs = {"ids": (ids, "int64"), "grad": draw.normal((tokens, cols), dtype)}

    def expected(v: Values) -> Dict[str, Expected]:
        total, size = np.zeros((rows, cols)), np.zeros((rows, cols))
        here = (v["ids"] >= 0) & (v["ids"] < rows)
        np.add.at(total, v["ids"][here], v["grad"][here])
        np.add.at(size, v["ids"][here], np.abs(v["grad"][here]))
        return {"out": Expected(total, size)}

    arguments = ["@ids", "@grad", "@out", tokens, rows, cols, dtype]
    about = f"[{tokens}] ids of {rows}, [{tokens}, {cols}]"
    return Case("embedding_grad", about, inputs, {"out": ((rows, cols), dtype)}, arguments, expected, types=dtype)


def adamw(draw: Draw, count: int, dtype: str, rounded: Optional[str] = None, decay: float = 0.1) -> Case:
    """Gradients of `dtype`; `rounded`: the type of the copy of the weights, if there is one."""
    second, _ = draw.normal((count,), "float32", 0, 1e-2)
    inputs = {
        "weight": draw.normal((count,), "float32"),
        "moment1": draw.normal((count,), "float32", 0, 1e-2),
        "moment2": (second * second, "float32"),
        "gradient": draw.normal((count,), dtype, 0, 1e-1),
    }
    lr, beta1, beta2, epsilon, factor = 3e-3, 0.9, 0.95, 1e-8, 0.7
    correction1, correction2 = 1 - beta1**3, 1 - beta2**3

    def expected(v: Values) -> Dict[str, Expected]:
        b1, b2, g = _wide(beta1), _wide(beta2), _wide(factor) * v["gradient"]
        m, v2 = b1 * v["moment1"] + (1 - b1) * g, b2 * v["moment2"] + (1 - b2) * g * g
        size = np.abs(b1 * v["moment1"]) + np.abs((1 - b1) * g)
        scale = np.sqrt(v2 / _wide(correction2)) + _wide(epsilon)
        rate = _wide(lr) / _wide(correction1)
        weight = v["weight"] * (1 - _wide(lr) * _wide(decay)) - rate * m / scale
        moved = np.abs(v["weight"]) + rate * size / scale
        found = {"weight": Expected(weight, moved), "moment1": Expected(m, size), "moment2": Expected(v2, v2)}
        if rounded:
            found["rounded"] = Expected(weight, moved)
        return found

    results = {name: ((count,), "float32") for name in ("weight", "moment1", "moment2")}
    if rounded:
        results["rounded"] = ((count,), rounded)
    buffers = ["@weight", "@moment1", "@moment2", "@gradient", "@rounded" if rounded else None]
    numbers = [lr, beta1, beta2, epsilon, decay, correction1, correction2, factor]
    arguments = [*buffers, count, *numbers, dtype, rounded or "float32"]
    types = f"{dtype}, {rounded} copy" if rounded else dtype
    return Case("adamw", f"[{count}]", inputs, results, arguments, expected, types=types)


def squared_norm(draw: Draw, count: int, dtype: str) -> Case:
    def expected(v: Values) -> Dict[str, Expected]:
        total = (v["x"] ** 2).sum(keepdims=True)
        return {"out": Expected(total, total)}

    inputs, results = {"x": draw.normal((count,), dtype)}, {"out": ((1,), "float32")}
    arguments = ["@x", "@out", "@workspace", count, dtype]
    space = ("squared_norm_workspace",)
    return Case("squared_norm", f"[{count}]", inputs, results, arguments, expected, space, dtype)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def checks(widths: Sequence[int], rows: Callable[[int], int], flat: Sequence[int]) -> Iterator[Case]:
    """Cases of every kernel in every type.

    Args:
        widths: hidden sizes, and sizes of a vocabulary.
        rows: how many rows there are of such a size.
        flat: sizes of flat tensors.
    """
    draw = Draw()
    for cols in widths:
        for pair in PAIRS:
            yield norm(draw, rows(cols), cols, pair, True)
            yield norm(draw, rows(cols), cols, pair, False)
            yield norm(draw, rows(cols), cols, pair, False, residual=True)
            yield norm_grad(draw, rows(cols), cols, pair, True)
            yield norm_grad(draw, rows(cols), cols, pair, False)
            yield norm_grad(draw, rows(cols), cols, pair, False, dsum=True)
    for dtype in TYPES:
        for cols in widths:
            yield cross_entropy_parts(draw, rows(cols), cols, dtype)
            yield cross_entropy_slopes(draw, rows(cols), cols, dtype, by_row=cols % 2 == 1)
        for tokens, ids, cols in ((1, 3, 5), (70, 11, 64), (100, 50, 321)):
            yield embedding_grad(draw, tokens, ids, cols, dtype)
        for count in flat:
            yield swiglu(draw, count, dtype)
            yield swiglu_grad(draw, count, dtype)
            yield squared_norm(draw, count, dtype)
            yield from (adamw(draw, count, dtype, copy) for copy in (None, "float16", "bfloat16"))
        for shape in ((2, 5, 3, 64), (2, 3, 2, 10), (1, 2, 40, 128), (2, 4, 1, 2), (1, 3, 2, 16)):
            for flags in range(4):
                yield rope(draw, shape, dtype, bool(flags & 1), bool(flags & 2), shape[0] if flags == 2 else 1)
