"""How one argument is declared: its default, help, limits, group, and what this toolkit does with it."""

from __future__ import annotations

from dataclasses import MISSING, Field, field, fields
from types import MappingProxyType
from typing import Any, Callable, Dict, Optional, Sequence, Tuple, TypeVar

T = TypeVar("T", bound=type)

#: Group key -> (English title, Chinese title), in the order --help and the documentation show them.
GROUPS: Dict[str, Tuple[str, str]] = {
    "model": ("Model", "模型"),
    "data": ("Data", "数据"),
    "run": ("What to run, and where", "运行内容与位置"),
    "loop": ("Training loop", "训练循环"),
    "optimizer": ("Optimizer", "优化器"),
    "schedule": ("Learning rate schedule", "学习率调度"),
    "precision": ("Precision", "精度"),
    "parallel": ("Parallelism", "并行"),
    "expert": ("Expert parallelism", "专家并行"),
    "recompute": ("Recompute", "重计算"),
    "fused": ("Fused operators", "融合算子"),
    "evaluation": ("Evaluation", "评估"),
    "checkpoint": ("Checkpoints and resuming", "检查点与恢复"),
    "reliability": ("Faults", "故障处理"),
    "planning": ("Planning", "规划"),
    "logging": ("Logging", "日志"),
    "sample": ("Sample text", "文本样例"),
    "other": ("Kept for compatibility", "仅为兼容保留"),
}

#: Status -> (English, Chinese) words of the documentation.
STATUS: Dict[str, Tuple[str, str]] = {
    "acts": ("works", "生效"),
    "noted": ("accepted, changes nothing", "接受但不改变任何行为"),
    "refused": ("only the default is accepted", "仅接受默认值"),
}


def acts(
    default: Any,
    help: str,
    *,
    choices: Optional[Sequence[str]] = None,
    ge: Optional[float] = None,
    gt: Optional[float] = None,
    le: Optional[float] = None,
    lt: Optional[float] = None,
    secret: bool = False,
    switch: str = "",
) -> Any:
    """An argument that does what its help says.

    Args:
        default: the default; `dataclasses.MISSING` makes the argument required.
        help: one or two sentences, with the unit and what the default means.
        choices: the allowed words of a string.
        ge, gt, le, lt: limits of a number (>=, >, <=, <).
        secret: never written into logs or run records.
        switch: the word that true stands for in a text; false stands for "".
    """
    limits = {">=": ge, ">": gt, "<=": le, "<": lt}
    return _declare(
        default,
        help,
        "acts",
        choices=tuple(choices) if choices else None,
        limits={sign: limit for sign, limit in limits.items() if limit is not None},
        secret=secret,
        switch=switch,
    )


def noted(default: Any, help: str, note: str) -> Any:
    """An argument whose value changes nothing here; giving another value than the default logs `note`."""
    return _declare(default, help, "noted", reason=note)


def refused(default: Any, help: str, why: str) -> Any:
    """An argument that exists only so that files which spell out its default load; other values are refused."""
    return _declare(default, help, "refused", reason=why)


def _declare(default: Any, help: str, status: str, **more: Any) -> Any:
    return field(default=default, metadata={"help": help, "status": status, **more})


def in_group(group: str) -> Callable[[T], T]:
    """Class decorator, above `@dataclass`: puts the class's own arguments into a group of `GROUPS`."""

    def mark(cls: T) -> T:
        for item in fields(cls):
            if "group" not in item.metadata:
                item.metadata = MappingProxyType({**item.metadata, "group": group})  # type: ignore[misc]
        return cls

    return mark


def is_required(item: Field) -> bool:
    """Whether the argument has no default."""
    return item.default is MISSING


def status_of(item: Field) -> Tuple[str, str]:
    """(status, reason) of an argument; status is a key of `STATUS`, the reason is "" for those that act."""
    return item.metadata["status"], item.metadata.get("reason", "")


def limits_text(item: Field) -> str:
    """The limits of a number in words, such as ">= 0 and < 1"; "" when there are none."""
    return " and ".join(f"{sign} {limit:g}" for sign, limit in item.metadata.get("limits", {}).items())
