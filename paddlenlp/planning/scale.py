"""Large models on many devices: the best layouts that a search found (scale.json), timed as the planner stands.

`python -m paddlenlp.planning.scale` searches anew and writes scale.json: minutes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, Iterator, List

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.transformers.auto.configuration import AutoConfig
from paddlenlp.utils.files import atomic_write_text

from .hardware import hardware
from .layout import Layout
from .memory import fullest, plan_memory
from .search import Wanted, search
from .speed import StepTime, step_time
from .work import model_work

TABLE = Path(__file__).with_name("scale.json")

CASES = (
    ("meta-llama/Meta-Llama-3-70B", "h100-80g", 8192, 2048, (64, 256, 1024, 4096, 8192)),
    ("meta-llama/Meta-Llama-3.1-405B", "h100-80g", 8192, 2048, (512, 2048, 4096, 8192, 16384)),
    ("deepseek-ai/DeepSeek-V3", "h800-80g", 4096, 15360, (256, 1024, 2048, 5120, 10240)),
)
"""Model, hardware, tokens of a sequence, sequences of a step, numbers of devices."""

SIZES = [field.name for field in fields(Mesh)]
SHAPE = ("chunks", "stage", "micro_batch", "accumulation", "seq_length", "sequence_parallel", "recompute")
"""What of a layout scale.json holds beside the sizes of the mesh."""


@dataclass(frozen=True)
class Case:
    """The best layout of a model on so many devices."""

    model: str
    hardware: str
    layout: Layout

    def time(self) -> StepTime:
        """The time of a step."""
        return step_time(_work(self.model), self.layout, hardware(self.hardware))

    def gib(self) -> float:
        """What the fullest rank needs."""
        return fullest(plan_memory(_config(self.model), self.layout)).needed / 2**30


def cases() -> List[Case]:
    """Those of scale.json."""
    return [_case(row) for row in json.loads(TABLE.read_text(encoding="utf-8"))]


def _case(row: Dict[str, Any]) -> Case:
    mesh = Mesh(**{name: row[name] for name in SIZES if name in row})
    return Case(row["model"], row["hardware"], Layout(mesh, **{name: row[name] for name in SHAPE}))


def found_anew() -> Iterator[Dict[str, Any]]:
    """The rows of scale.json, searched for."""
    for model, device, length, batch, counts in CASES:
        for count in counts:
            (best,) = search(_config(model), hardware(device), Wanted(count, batch, length, best=1))
            layout, default = best.layout, Mesh()
            sizes = {name: getattr(layout.mesh, name) for name in SIZES}
            cut = {name: size for name, size in sizes.items() if size != getattr(default, name)}
            yield {"model": model, "hardware": device, **cut, **{name: getattr(layout, name) for name in SHAPE}}


@lru_cache(maxsize=8)
def _config(model: str) -> Any:
    return AutoConfig.from_pretrained(model)


@lru_cache(maxsize=8)
def _work(model: str) -> Any:
    return model_work(_config(model))


def main() -> None:
    """Writes scale.json."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in found_anew())
    atomic_write_text(TABLE, f"[\n{rows}\n]\n")
    print(TABLE)


if __name__ == "__main__":
    main()
