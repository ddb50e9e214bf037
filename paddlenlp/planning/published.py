"""Published runs (published.json), and what the planner says of the same: how far it can be trusted."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any, Dict, List, Optional

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.transformers.auto.configuration import AutoConfig

from .hardware import hardware
from .layout import Layout
from .reference_memory import reference_peak
from .speed import StepTime, step_time
from .stage_times import Engine
from .work import ModelWork, model_work

TABLE = Path(__file__).with_name("published.json")


@dataclass(frozen=True)
class Published:
    """A run that somebody published.

    Attributes:
        group: where it is from: a key of `groups`.
        name: of the run.
        config: of its model.
        layout: how it ran.
        hardware: on what.
        engine: what the toolkit's kernels and exchanges could do.
        tokens_per_second: measured, per device.
        memory_mb: the peak that was measured, in MiB, where it is known.
        plain_rope: see `reference_peak`.
        file: the shipped argument file of such a run, within llm/config.
    """

    group: str
    name: str
    config: Any
    layout: Layout
    hardware: str
    engine: Engine
    tokens_per_second: float
    memory_mb: Optional[float]
    plain_rope: bool
    file: Optional[str]

    @property
    def work(self) -> ModelWork:
        """What its model computes."""
        return _work(self.name, self.group)

    def predicted_mb(self) -> float:
        """The peak in MiB that the count of memory gives for that toolkit."""
        return reference_peak(self.config, self.work, self.layout, self.plain_rope) / 2**20

    def predicted(self) -> StepTime:
        """What the planner says of it."""
        return step_time(self.work, self.layout, hardware(self.hardware), self.engine)


def groups() -> Dict[str, Any]:
    """What the runs of a source have in common: `title`, `source` and so on."""
    return _table()["groups"]


def published(group: Optional[str] = None) -> List[Published]:
    """The runs of a group, or of all, in the order of the table."""
    return [_run(row) for row in _table()["runs"] if group in (None, row["group"])]


def _run(row: Dict[str, Any]) -> Published:
    shared = groups()[row["group"]]
    values = {**shared["layout"], **row["layout"]}
    sizes = {field.name: values.pop(field.name) for field in fields(Mesh) if field.name in values}
    if "kernels" in values:
        values["kernels"] = frozenset(values["kernels"])
    layout = Layout(Mesh(**sizes), **values)
    engine = Engine(**{**shared["engine"], **row.get("engine", {})})
    speed = _tokens_per_second(row, layout, shared.get("convention"))
    return Published(
        row["group"],
        row["name"],
        _config(row["model"]),
        layout,
        shared["hardware"],
        engine,
        speed,
        row.get("memory_mb"),
        row.get("plain_rope", False),
        row.get("file"),
    )


def _tokens_per_second(row: Dict[str, Any], layout: Layout, convention: Optional[str]) -> float:
    """Per device, from what was published: that, seconds of a step, or operations a second by some convention."""
    if "tokens_per_second" in row:
        return row["tokens_per_second"]
    if "seconds" in row:
        return layout.global_tokens / row["seconds"] / layout.mesh.world
    work, length = _work(row["name"], row["group"]), layout.seq_length
    causal = work.flops_per_token(length) - 3.0 * work.pairs * length
    counted = {
        # As flash attention computes: the half of the scores that is seen.
        "causal": causal,
        # Full recompute of the layers counted, all scores (arXiv:2104.04473, appendix).
        "megatron-2021": work.flops_per_token(length) + 2.0 * (work.in_layers + work.pairs * length),
    }[convention or ""]
    return row["tflops"] * 1e12 / counted


def _config(model: Any) -> Any:
    return AutoConfig.from_pretrained(model) if isinstance(model, str) else AutoConfig.from_dict(model)


@lru_cache(maxsize=64)
def _work(name: str, group: str) -> ModelWork:
    row = next(row for row in _table()["runs"] if (row["name"], row["group"]) == (name, group))
    return model_work(_config(row["model"]))


@lru_cache(maxsize=1)
def _table() -> Dict[str, Any]:
    return json.loads(TABLE.read_text(encoding="utf-8"))
