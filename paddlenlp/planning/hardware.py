"""What devices and the links between them are capable of: a table (hardware.json), entries of the user's own, and the
CPU of this machine, measured."""

from __future__ import annotations

import functools
import json
import os
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

import numpy as np

from paddlenlp.trainer.peak import TRIES, measured_tflops, table_peak
from paddlenlp.utils.errors import UsageError

TABLE = Path(__file__).with_name("hardware.json")
ALIKE = 0.869
"""Share of its peak that the best product reaches on a device of which none is in the table: an A100's."""

COPIED = 1 << 23
"""Numbers that are copied to time a memory: 32 MiB, more than a cache keeps beside their copy."""


@dataclass(frozen=True)
class Hardware:
    """A device, its node and its network. Speeds are what data sheets say unless told otherwise.

    Attributes:
        name: of the device, as its driver gives it: `trainer.peak` knows the peak of matrix products by it.
        memory_gib: what a process can allocate.
        processors: that a product is dealt out over (SMs); 1 for a CPU.
        memory_gb_s: speed of its memory.
        link_gb_s: speed of a device's links to the others of its node, in one direction.
        devices_per_node: devices that these links connect.
        network_gb_s: speed of the network for each device, in one direction.
        gemm_tflops, gemm_shape: of the fastest 16-bit product that was measured, and its (m, n, k).
        attention: shares of the peak that flash attention tends to in long sequences, forward and backward, of the
            operations of the causal half.
        source: where the figures are from.
        tflops: peak of products by dtype, for devices that `trainer.peak` doesn't know.
    """

    name: str
    memory_gib: float
    processors: int
    memory_gb_s: float
    link_gb_s: float
    devices_per_node: int
    network_gb_s: float
    gemm_tflops: Optional[float]
    gemm_shape: Optional[Tuple[int, int, int]]
    attention: Tuple[float, float]
    source: str
    tflops: Optional[Tuple[Tuple[str, float], ...]] = None

    def peak(self, dtype: str) -> float:
        """Peak of matrix products of `dtype`, operations a second: the denominator of the MFU."""
        own = dict(self.tflops or ()).get(dtype)
        found = own or table_peak(self.name, dtype)
        if found is None:
            told = f"hardware {self.name!r} has no known peak for {dtype}"
            raise UsageError(f'{told}: give it in its entry, "tflops": {{"{dtype}": TFLOP/s}}')
        return found * 1e12

    @property
    def is_cpu(self) -> bool:
        """Whether it is a CPU, whose kernels work on a core each."""
        return self.processors == 1

    @property
    def best_product(self) -> float:
        """The fastest 16-bit product, as a share of the peak."""
        return self.gemm_tflops * 1e12 / self.peak("bfloat16") if self.gemm_tflops else ALIKE


def hardware(name: str, file: Optional[Path] = None) -> Hardware:
    """The entry `name` of the table, or of a JSON file of the same form, whose entries come first; "cpu": this machine.

    An entry of a file may build on one of the table: `{"like": "h100-80g", "network_gb_s": 25}`.

    Raises:
        UsageError: there is no such entry, or it has unknown or missing values.
    """
    own = {} if file is None else _read(file)
    known = {**_table(), **own}
    if name == "cpu" and name not in own:
        return measured_cpu()
    if name not in known:
        names = ", ".join([*sorted(known), "cpu"])
        yours = f'{{"{name}": {{"like": "a100-80g", "memory_gb_s": ...}}}}'
        raise UsageError(
            f"hardware {name!r} is not known; known: {names}. Choose one, or describe yours in a JSON file: {yours}"
        )
    return _entry(name, known, where=str(file if name in own else TABLE.name))


def hardware_names() -> List[str]:
    """The entries of the table, sorted."""
    return sorted(_table())


def _entry(name: str, known: Dict[str, Any], where: str) -> Hardware:
    values = dict(known[name])
    base = values.pop("like", None)
    if base is not None and base not in _table():
        raise UsageError(f"{where}: {name} is like {base!r}, which is not in the table: {', '.join(hardware_names())}")
    values = {**({} if base is None else _table()[base]), **values}
    wanted = {field.name for field in fields(Hardware)}
    missing, unknown = sorted(wanted - {"tflops"} - set(values)), sorted(set(values) - wanted)
    if missing or unknown:
        told = f"lacks {', '.join(missing) or 'nothing'} and has unknown {', '.join(unknown) or 'nothing'}"
        raise UsageError(f"{where}: the entry {name!r} {told}. Its values: {', '.join(sorted(wanted))}")
    shape, tflops = values["gemm_shape"], values.get("tflops")
    values["gemm_shape"] = None if shape is None else tuple(shape)
    values["attention"] = tuple(values["attention"])
    values["tflops"] = None if tflops is None else tuple(sorted(tflops.items()))
    return Hardware(**values)


def _read(file: Path) -> Dict[str, Any]:
    try:
        found = json.loads(Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(f"hardware file {file} cannot be read: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise UsageError(f"hardware file {file} must hold an object of entries: {{'name': {{...}}}}")
    return found


@functools.lru_cache(maxsize=1)
def _table() -> Dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))


@functools.lru_cache(maxsize=1)
def measured_cpu() -> Hardware:
    """This machine with the threads Paddle uses: its products and its memory are timed, in a fraction of a second."""
    tflops, source, target = measured_tflops("float32"), np.ones(COPIED, np.float32), np.ones(COPIED, np.float32)
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        np.copyto(target, source)
        seconds.append(time.perf_counter() - start)
    speed = (source.nbytes + target.nbytes) / min(seconds) / 1e9
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return Hardware(
        *("this CPU", memory, 1, speed, speed, 1, 1.0, tflops, None, (0.5, 0.5), "measured"),
        tflops=tuple((dtype, tflops) for dtype in ("bfloat16", "float16", "float32")),
    )
