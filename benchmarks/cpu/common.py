"""What all sides share, in NumPy only: shapes, data, initial weights, learning rates, measuring.

Initial weights and tokens are made once, from a fixed seed, in a folder that all sides read, so that they do the same
work.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import struct
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

import numpy as np

SHAPES: Dict[str, Dict[str, int]] = {
    "a": dict(vocab=32000, hidden=256, inner=688, layers=4, heads=4, kv_heads=4, seq=512, batch=4, micro_batches=1),
    "b": dict(vocab=32000, hidden=512, inner=1376, layers=8, heads=8, kv_heads=4, seq=1024, batch=2, micro_batches=2),
    "c": dict(vocab=32000, hidden=256, inner=688, layers=4, heads=4, kv_heads=4, seq=4096, batch=1, micro_batches=1),
}
SEED, EPS, THETA = 1234, 1e-5, 10000.0
BETAS, ADAM_EPS, WEIGHT_DECAY, CLIP = (0.9, 0.95), 1e-8, 0.1, 1.0


def parse_arguments(*switches: str, lists: Sequence[str] = ()) -> argparse.Namespace:
    """The command line of a side; sets the number of threads, so call it before the framework is imported.

    Args:
        switches: names of further options that take no value.
        lists: names of further options that take any number of words.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="a", choices=sorted(SHAPES))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--skip", type=int, default=3, help="first steps left out of the medians")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--work", type=Path, required=True, help="folder with tokens and initial weights (see prepare)")
    for switch in switches:
        parser.add_argument(f"--{switch}", action="store_true")
    for name in lists:
        parser.add_argument(f"--{name}", nargs="*", default=[])
    args = parser.parse_args()
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(args.threads)
    return args


def learning_rate(step: int) -> float:
    """Of step 0, 1, ...: linear warm-up to 1e-3 in ten steps, then constant."""
    return 1e-3 * min(1.0, (step + 1) / 10)


def prepare(work: Path, shape: str) -> None:
    """Make tokens.npy and `shape`/config.json and model.safetensors (Hugging Face format) in `work` where missing."""
    work.mkdir(parents=True, exist_ok=True)
    if not (work / "tokens.npy").exists():
        np.save(work / "tokens.npy", make_tokens(2_000_000, 32000))
    folder = work / shape
    if not (folder / "model.safetensors").exists():
        folder.mkdir(exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config_of(shape), indent=2), encoding="utf-8")
        write_safetensors(folder / "model.safetensors", make_weights(SHAPES[shape]))


def make_tokens(count: int, vocab: int) -> np.ndarray:
    """Log-uniform tokens, of which every second one on average follows from the one before it, so that losses fall."""
    random = np.random.RandomState(SEED)
    tokens = np.floor(np.exp(random.uniform(0, np.log(vocab - 8), count))).astype(np.int64) + 3
    follows = np.flatnonzero(random.uniform(size=count - 1) < 0.5) + 1
    tokens[follows] = (tokens[follows - 1] * 7 + 11) % (vocab - 8) + 3
    return tokens


def batches(work: Path, shape: str, steps: int) -> List[List[Tuple[np.ndarray, np.ndarray]]]:
    """For each step its micro batches (input ids, labels), int64 [batch, seq]."""
    size = SHAPES[shape]
    tokens, seq, rows = np.load(work / "tokens.npy"), size["seq"], size["batch"]
    made, start = [], 0
    for _ in range(steps * size["micro_batches"]):
        span = np.stack([tokens[start + row * seq : start + (row + 1) * seq + 1] for row in range(rows)])
        made.append((np.ascontiguousarray(span[:, :-1]), np.ascontiguousarray(span[:, 1:])))
        start = (start + rows * seq) % (len(tokens) - rows * seq - 1)
    return [made[i : i + size["micro_batches"]] for i in range(0, len(made), size["micro_batches"])]


def config_of(shape: str) -> Dict[str, object]:
    """config.json of the Hugging Face format."""
    size = SHAPES[shape]
    return dict(
        architectures=["LlamaForCausalLM"], model_type="llama", vocab_size=size["vocab"], hidden_size=size["hidden"],
        intermediate_size=size["inner"], num_hidden_layers=size["layers"], num_attention_heads=size["heads"],
        num_key_value_heads=size["kv_heads"], max_position_embeddings=size["seq"], rms_norm_eps=EPS, rope_theta=THETA,
        hidden_act="silu", initializer_range=0.02, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip


def make_weights(size: Dict[str, int]) -> Dict[str, np.ndarray]:
    """Normal(0, 0.02) matrices [out, in] and norms of ones, by Hugging Face name."""
    hidden, inner, kv = size["hidden"], size["inner"], size["hidden"] // size["heads"] * size["kv_heads"]
    layer = {
        "self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (kv, hidden), "self_attn.v_proj": (kv, hidden),
        "self_attn.o_proj": (hidden, hidden), "mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden),
        "mlp.down_proj": (hidden, inner), "input_layernorm": (hidden,), "post_attention_layernorm": (hidden,),
    }  # fmt: skip
    shapes = {
        "model.embed_tokens": (size["vocab"], hidden),
        "model.norm": (hidden,),
        "lm_head": (size["vocab"], hidden),
    }
    shapes.update({f"model.layers.{i}.{name}": shape for i in range(size["layers"]) for name, shape in layer.items()})
    random = np.random.RandomState(SEED)
    return {
        f"{name}.weight": np.ones(shape, np.float32)
        if len(shape) == 1
        else random.standard_normal(shape).astype(np.float32) * np.float32(0.02)
        for name, shape in shapes.items()
    }


def write_safetensors(path: Path, tensors: Dict[str, np.ndarray]) -> None:
    """A float32 safetensors file, written without the library, which the other environment may lack."""
    header: Dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, array in tensors.items():
        header[name] = {"dtype": "F32", "shape": list(array.shape), "data_offsets": [offset, offset + array.nbytes]}
        offset += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    temporary = path.with_suffix(".tmp")
    with open(temporary, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for array in tensors.values():
            file.write(array.tobytes())
    os.replace(temporary, path)


def read_safetensors(path: Path) -> Dict[str, np.ndarray]:
    """The float32 arrays of a file of `write_safetensors`."""
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    arrays = {}
    for name, entry in header.items():
        if name != "__metadata__":
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            arrays[name] = np.frombuffer(data[start:end], np.float32).reshape(entry["shape"])
    return arrays


class Steps:
    """Measures the steps of this process: `begin` before the first, `end` after each."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.wall: List[float] = []
        self.cpu: List[float] = []
        self.serial: List[float] = []
        self.losses: List[float] = []
        self.first_end = 0.0

    def begin(self) -> None:
        """The first step begins now."""
        self._last = time.perf_counter(), time.process_time(), serial_seconds()

    def end(self) -> None:
        """A step ends now, and the next one begins."""
        now = time.perf_counter(), time.process_time(), serial_seconds()
        for kept, after, before in zip((self.wall, self.cpu, self.serial), now, self._last):
            kept.append(after - before)
        self._last = now
        self.first_end = self.first_end or seconds_since_start()

    def print(self, name: str) -> None:
        """One JSON line of what the steps took."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print_result(name, self.args, self.wall, self.cpu, self.serial, self.losses, self.first_end, peak)


def print_result(
    name: str,
    args: argparse.Namespace,
    wall: Sequence[float],
    cpu: Sequence[float],
    serial: Sequence[float],
    losses: Sequence[float],
    first_end: float,
    peak_kilobytes: int,
) -> None:
    """The line that `compare.py` reads: medians over the steps after the first `args.skip`."""
    size, seconds = SHAPES[args.shape], statistics.median(wall[args.skip :])
    tokens = size["seq"] * size["batch"] * size["micro_batches"]
    result = {
        "name": name,
        "shape": args.shape,
        "threads": args.threads,
        "steps": args.steps,
        "tokens_per_second": round(tokens / seconds, 1),
        "seconds_per_step": round(seconds, 4),
        "cpu_seconds_per_step": round(statistics.median(cpu[args.skip :]), 4),
        "serial_seconds_per_step": round(statistics.median(serial[args.skip :]), 4) if serial else None,
        "first_step_after_start": round(first_end, 2),
        "peak_megabytes": round(peak_kilobytes / 1024),
        "losses": [round(loss, 6) for loss in losses],
    }
    print("RESULT " + json.dumps(result), flush=True)


def measure(name: str, args: argparse.Namespace, step: Callable[[int], float]) -> None:
    """Run `step(0)`, `step(1)` ..., each giving its loss, and print what they took."""
    steps = Steps(args)
    steps.begin()
    for number in range(args.steps):
        steps.losses.append(step(number))
        steps.end()
    steps.print(name)


def serial_seconds() -> float:
    """CPU seconds of the main thread and of the busiest Python thread beside it: what a step would take if nothing else
    ran on the machine, whatever runs there in fact."""
    others = [t.native_id for t in threading.enumerate() if t is not threading.main_thread()]
    busy = [int(Path(f"/proc/self/task/{thread}/schedstat").read_text().split()[0]) * 1e-9 for thread in others]
    return time.thread_time() + max(busy, default=0.0)


def seconds_since_start() -> float:
    """Since this process was started (Linux)."""
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    return float(Path("/proc/uptime").read_text().split()[0]) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def rows(args: argparse.Namespace) -> List[Tuple[np.ndarray, np.ndarray]]:
    """(ids, labels) of every row of all micro batches, in order: the dataset of a peer's trainer."""
    data = batches(args.work, args.shape, args.steps)
    return [pair for step in data for ids, labels in step for pair in zip(ids, labels)]


class Clock:
    """What the callback of any peer does: it tells `steps` where steps end, and what their losses are."""

    steps: Any = None

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        self.steps.begin()

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if logs and "loss" in logs:
            self.steps.losses.append(float(logs["loss"]))
            self.steps.end()
