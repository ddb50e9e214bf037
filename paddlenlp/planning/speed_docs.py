"""Writes docs/planning_measured.md and its Chinese twin: `python -m paddlenlp.planning.speed_docs`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence, Tuple

from paddlenlp.utils.files import atomic_write_text

from . import kernel_times, stage_times, wire
from .hardware import hardware, hardware_names
from .published import Published, groups, published
from .scale import Case, cases
from .speed import OURS, STEP, UPDATE_BYTES

DOCS = {"planning_measured.md": 0, "planning_measured_zh.md": 1}

Pair = Tuple[str, str]
"""English, Chinese."""

_INTRO: Pair = (
    """# Predicted against measured

[简体中文](planning_measured_zh.md)

Written by `python -m paddlenlp.planning.speed_docs`; do not edit it by hand. How to plan a run:
[planning.md](planning.md).

Nothing here ran on a GPU of ours. Measured figures are published ones, their sources are named; predicted ones are the
planner's, with the constants below. Tokens are per second and device. MFU counts 6 N + 12 L h d s operations a token
(N: parameters that a token is multiplied by; all scores, recomputing not counted) over the 16-bit peak of the device.
""",
    """# 预测与实测

[English](planning_measured.md)

本文件由 `python -m paddlenlp.planning.speed_docs` 生成,请勿手工修改。
如何规划一次训练见 [planning_zh.md](planning_zh.md)。

这里没有任何数字来自我们自己的 GPU。实测值均为公开数据并注明来源;预测值由规划器按下面的常数算出。token 数为每秒每卡。
MFU 按每个 token 6 N + 12 L h d s 次运算计(N 为每个 token 相乘的参数;计全部注意力得分,不计重计算),
除以该设备 16 位的峰值。
""",
)

_TABLE: Pair = ("PaddleNLP's table: 8 A100 80 GB", "PaddleNLP 的性能表:8 张 A100 80 GB")
_ELSEWHERE: Pair = ("Other published runs", "其他公开结果")
_SCALE: Pair = ("Large models on many devices", "大模型与大集群")
_CONSTANTS: Pair = ("Constants", "常数")
_HARDWARE: Pair = ("Hardware", "硬件")

_TABLE_TEXT: Pair = (
    "Speed with one set of constants; memory counted as for this toolkit, with what that one keeps more "
    "(`planning/reference_memory.py`). This toolkit itself needs less: see `plan.py`.",
    "速度只用一组常数;显存按本工具的方法计算,再加上 PaddleNLP 额外保存的部分(`planning/reference_memory.py`)。"
    "本工具自身所需更少,见 `plan.py`。",
)
_SCALE_TEXT: Pair = (
    "The fastest layout that `python -m paddlenlp.planning.scale` found for this toolkit at a fixed global batch, and "
    "what it loses: to memory (recomputing), to the batch (the bubble of the pipeline), to links (exchanges that "
    "nothing hides). The largest is what breaks first. Days are for 10^12 tokens, without failures. All of it is "
    "arithmetic: nothing of this size was run.",
    "在全局批大小固定时,`python -m paddlenlp.planning.scale` 为本工具找到的最快布局,以及它的损失:显存(重计算)、"
    "批大小(流水线气泡)、链路(无法被计算掩盖的通信)。最大的一项即最先成为瓶颈。天数对应 10^12 个 token,不计故障。"
    "以上全部为计算结果,没有实际运行过这种规模。",
)
_CONSTANTS_TEXT: Pair = (
    "The same for all devices, models and layouts. What differs between devices is in the next table; how a toolkit's "
    "products keep pace in training is one number for each toolkit.",
    "对所有设备、模型和布局都相同。设备之间的差别见下一张表;各工具训练时矩阵乘法的持续速度,每个工具一个数。",
)
_PACE: Pair = (
    "speed of products in training over that of products timed alone: {ours} for PaddlePaddle (so for this toolkit), "
    "set by the table above; 0.88 for the others, set by Megatron-LM's table of 2021",
    "训练中矩阵乘法的速度与单独计时之比:PaddlePaddle 为 {ours}(本工具同),由上面的性能表确定;其他工具为 0.88,"
    "由 Megatron-LM 2021 年的表确定",
)

_MEANINGS: Dict[str, Pair] = {
    "FILL": ("terms of a sum in whose time a block starts and ends", "一个分块开始与结束所占的累加项数"),
    "STREAM": ("of the memory's peak, what element-wise kernels reach", "逐元素算子达到的显存带宽比例"),
    "LAUNCH": ("seconds from one kernel to the next", "相邻算子之间的秒数"),
    "SHORT": ("keys at which flash attention reaches half its speed", "flash attention 达到一半速度时的键数"),
    "FLASH_BACKWARD": ("products of its backward pass over its forward pass", "其反向与前向乘法次数之比"),
    "LOSS_BYTES": ("bytes moved for each logit, forward and backward", "每个 logit 前向与反向移动的字节"),
    "UPDATE_BYTES": ("bytes moved for each updated element", "每个被更新元素移动的字节"),
    "STEP": ("seconds of a step in which the device waits for the host", "每步设备等待主机的秒数"),
    "ACHIEVED": ("of a link's speed, what collectives reach", "集合通信达到的链路速度比例"),
    "HOP": ("seconds of a step of a collective", "集合通信每一步的秒数"),
    "TAX": ("slowing of computing by an exchange behind it", "被掩盖的通信使计算变慢的比例"),
}
_VALUES: Dict[str, Any] = {
    **{name: getattr(kernel_times, name) for name in ("FILL", "STREAM", "LAUNCH", "SHORT", "FLASH_BACKWARD")},
    "LOSS_BYTES": stage_times.LOSS_BYTES,
    "UPDATE_BYTES": UPDATE_BYTES,
    "STEP": STEP,
    **{name: getattr(wire, name) for name in ("ACHIEVED", "HOP", "TAX")},
}

_RUN: Pair = ("run", "任务")
_LAYOUT: Pair = ("layout", "布局")
_PREDICTED: Pair = ("predicted", "预测")
_MEASURED: Pair = ("measured", "实测")
_ERROR: Pair = ("error", "误差")
_SOURCE: Pair = ("Source", "来源")


def document(language: int) -> str:
    """The whole document; language 0 is English, 1 Chinese."""

    def say(pair: Pair) -> str:
        return pair[language]

    parts = [say(_INTRO), f"## {say(_TABLE)}\n\n{say(_TABLE_TEXT)}\n", _table(say), _source("paddlenlp", say)]
    parts.append(f"## {say(_ELSEWHERE)}\n")
    for group, shared in groups().items():
        if group != "paddlenlp":
            parts += [f"### {shared['title']}\n", _runs(published(group), say), _source(group, say)]
    parts += [f"## {say(_SCALE)}\n\n{say(_SCALE_TEXT)}\n", _scale(say)]
    parts += [f"## {say(_CONSTANTS)}\n\n{say(_CONSTANTS_TEXT)}\n", _constants(say)]
    parts += [f"## {say(_HARDWARE)}\n", _hardware(say)]
    return "\n".join(parts)


Say = Callable[[Pair], str]


def _rows(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _source(group: str, say: Say) -> str:
    return f"{say(_SOURCE)}: {groups()[group]['source']}.\n"


def _table(say: Say) -> str:
    titles = [say(_RUN), say(_LAYOUT), *[f"tokens/s {say(pair)}" for pair in (_PREDICTED, _MEASURED)], say(_ERROR)]
    titles += [*[f"MiB {say(pair)}" for pair in (_PREDICTED, _MEASURED)], say(_ERROR)]
    rows = []
    for run in published("paddlenlp"):
        memory, measured = run.predicted_mb(), run.memory_mb or 0.0
        rows.append([*_speed(run), f"{memory:.0f}", f"{measured:.0f}", _percent(memory / measured - 1)])
    return _rows(titles, rows)


def _runs(runs: Sequence[Published], say: Say) -> str:
    titles = [say(_RUN), say(_LAYOUT), *[f"tokens/s {say(pair)}" for pair in (_PREDICTED, _MEASURED)], say(_ERROR)]
    return _rows([*titles, "MFU"], [[*_speed(run), f"{run.predicted().mfu:.1%}"] for run in runs])


def _speed(run: Published) -> List[str]:
    found, measured = run.predicted().tokens_per_second, run.tokens_per_second
    return [run.name, str(run.layout), _digits(found), _digits(measured), _percent(found / measured - 1)]


def _scale(say: Say) -> str:
    titles = [say(pair) for pair in (("model", "模型"), ("devices", "设备数"), _LAYOUT)]
    titles += ["tokens/s", "MFU", "GiB", say(("memory", "显存")), say(("batch", "批大小")), say(("links", "链路"))]
    return _rows([*titles, say(("days", "天"))], [_case(case) for case in cases()])


def _case(case: Case) -> List[str]:
    time, mesh = case.time(), case.layout.mesh
    lost = time.losses
    worst = max(lost, key=lambda name: lost[name])
    shares = [f"**{share:.1%}**" if name == worst else f"{share:.1%}" for name, share in lost.items()]
    name, days = case.model.rpartition("/")[2], f"{time.days(1e12):.3g}"
    speed = [_digits(time.tokens_per_second), f"{time.mfu:.1%}", f"{case.gib():.0f}"]
    return [name, f"{mesh.world} {case.hardware}", str(case.layout), *speed, *shares, days]


def _constants(say: Say) -> str:
    rows = [[f"`{name}`", f"{value:g}", say(_MEANINGS[name])] for name, value in _VALUES.items()]
    rows.append(["`Engine.pace`", f"{OURS.pace:g}", say(_PACE).format(ours=f"{OURS.pace:g}")])
    return _rows([say(("constant", "常数")), say(("value", "值")), say(("meaning", "含义"))], rows)


def _hardware(say: Say) -> str:
    titles = ["--gpu", "GiB", "TFLOP/s bf16", say(("fastest product", "最快的乘法")), say(("memory GB/s", "显存 GB/s"))]
    titles += [say(("links GB/s", "链路 GB/s")), say(("network GB/s", "网络 GB/s")), say(_SOURCE)]
    rows = []
    for name in hardware_names():
        hw = hardware(name)
        peak = hw.peak("bfloat16") / 1e12
        figures = [hw.memory_gib, peak, peak * hw.best_product, hw.memory_gb_s, hw.link_gb_s, hw.network_gb_s]
        rows.append([f"`{name}`", *[f"{figure:.4g}" for figure in figures], hw.source])
    return _rows(titles, rows)


def _digits(speed: float) -> str:
    return f"{speed:.0f}" if speed >= 1000 else f"{speed:.1f}"


def _percent(share: float) -> str:
    return f"{share:+.1%}"


def main() -> None:
    """Writes both files."""
    folder = Path(__file__).resolve().parents[2] / "docs"
    for name, language in DOCS.items():
        atomic_write_text(folder / name, document(language))
        print(folder / name)


if __name__ == "__main__":
    main()
