"""Writes docs/arguments.md and docs/arguments_zh.md: `python -m paddlenlp.trainer.argument_docs`."""

from __future__ import annotations

from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Dict, List, get_type_hints

from .fields import GROUPS, STATUS, is_required, limits_text, status_of
from .help_text import default_text
from .options import OPTION_WORDS
from .planning_args import PlanningArguments
from .pretraining_args import DataArguments, ModelArguments, PreTrainingArguments
from .reliability_args import ReliabilityArguments
from .values import type_name

CLASSES = (ModelArguments, DataArguments, PreTrainingArguments)

DOCS = {"arguments.md": 0, "arguments_zh.md": 1}

_INTRO = (
    """# Arguments of llm/run_pretrain.py

[中文](arguments_zh.md)

Written by `python -m paddlenlp.trainer.argument_docs` from the argument classes; do not edit it by hand.

Arguments come from a flat JSON file, from the command line, or from both; the command line wins:

<!-- not run: the quick start runs this file -->
```text
python llm/run_pretrain.py llm/config/llama/pretrain_argument_tiny.json --max_steps 200 --seed 1
```

- `--name value`, `--name=value`, lists `--name 1 2`, lists of lists `--name "[[1, 2], [5, 6]]"`; a switch alone is
  true, and `--no_name` turns off one that is on by default.
- `null` means the default. Booleans may be written true/false, 1/0, and also yes/no, t/f.
- Unknown names, beginnings of names, wrong types, keys given twice and values that do not go together are refused,
  all in one report with file and line.
- `--help` shows this table, `--help WORD` the arguments whose name or group holds WORD.
- The column "here" says what this toolkit does with the argument. Names, types and defaults are those of PaddleNLP;
  those it does not have are marked with an asterisk. The flags of fused operators, booleans there, are words here, and
  take booleans too: `auto` uses the operator where it is there and gives what the plain one gives, `true` does the same
  and says in the log where it is not there, `false` never uses it, `require` refuses a run without it.
""",
    """# llm/run_pretrain.py 的参数

[English](arguments.md)

本文件由 `python -m paddlenlp.trainer.argument_docs` 根据参数类生成,请勿手工修改。

参数来自一个扁平的 JSON 文件、命令行,或两者并用;命令行优先:

<!-- not run: the quick start runs this file -->
```text
python llm/run_pretrain.py llm/config/llama/pretrain_argument_tiny.json --max_steps 200 --seed 1
```

- 写法:`--name value`、`--name=value`;列表 `--name 1 2`;列表的列表 `--name "[[1, 2], [5, 6]]"`;
  单独写开关即为 true,默认开启的开关用 `--no_name` 关闭。
- `null` 表示使用默认值。布尔值可写 true/false、1/0,也可写 yes/no、t/f。
- 未知名称、名称前缀、类型错误、重复的键以及相互矛盾的值都会被拒绝,并在一份报告中连同文件名和行号全部列出。
- `--help` 显示全部参数,`--help WORD` 显示名称或分组中含有 WORD 的参数。
- “本工具”一列说明该参数在这里的作用。名称、类型和默认值与 PaddleNLP 一致;PaddleNLP 没有的参数标有星号。
  融合算子的开关在 PaddleNLP 中是布尔值,这里是单词,也接受布尔值:`auto` 表示算子可用且结果与普通实现一致时使用,
  `true` 相同,但不可用时在日志中说明,`false` 表示从不使用,`require` 表示不可用时拒绝运行。
- 表格与 `--help` 出自同一处,说明文字为英文。
""",
)

_COLUMNS = (("argument", "type", "default", "here", "meaning"), ("参数", "类型", "默认值", "本工具", "含义"))
_WORDS_TITLE = ("Option words", "选项词")
_WORDS_INTRO = (
    "Words for the arguments that end in `_config`, separated by blanks or commas.",
    "用于以 `_config` 结尾的参数,以空格或逗号分隔。",
)
_WORD_COLUMNS = (("word", "asks for", "here"), ("选项词", "请求", "本工具"))

_WORD_STATUS = {**STATUS, "refused": ("refused", "不接受")}

#: Arguments PaddleNLP does not have.
OWN = (
    "cpu_tuning",
    "eval_iters",
    "test_iters",
    "sample_prompt",
    "sample_max_new_tokens",
    "stable_data_order",
    "reset_position_ids",
    "reset_attention_mask",
    "profile_steps",
    "use_fused_swiglu",
    "use_fused_embedding",
    "use_fused_adamw",
    *(item.name for item in fields(PlanningArguments)),
    *(item.name for item in fields(ReliabilityArguments)),
)


def document(language: int) -> str:
    """The whole document; language 0 is English, 1 Chinese."""
    groups: Dict[str, List[str]] = {key: [] for key in GROUPS}
    for cls in CLASSES:
        types = get_type_hints(cls)
        for item in fields(cls):
            groups[item.metadata["group"]].append(_row(item, types[item.name], language))
    parts = [_INTRO[language]]
    for key, rows in groups.items():
        parts.append("\n".join([f"## {GROUPS[key][language]}", "", *_header(_COLUMNS[language]), *rows, ""]))
    parts.append(f"## {_WORDS_TITLE[language]}\n\n{_WORDS_INTRO[language]}\n")
    parts += [_words(argument, language) for argument in OPTION_WORDS]
    return "\n".join(parts)


def _header(names: Any) -> List[str]:
    return [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]


def _row(item: Field, kind: Any, language: int) -> str:
    status, reason = status_of(item)
    here = STATUS[status][language] + (f": {reason}" if reason else "")
    default = "**required**" if is_required(item) else f"`{default_text(item.default)}`"
    meaning = item.metadata["help"]
    if item.metadata.get("choices"):
        meaning += f" One of {', '.join(f'`{word}`' for word in item.metadata['choices'])}."
    if limits_text(item):
        meaning += f" Allowed: {limits_text(item)}."
    cells = [f"`{item.name}`" + ("\\*" if item.name in OWN else ""), type_name(kind), default, here, meaning]
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _words(argument: str, language: int) -> str:
    lines = [f"### {argument}", "", *_header(_WORD_COLUMNS[language])]
    for name, word in OPTION_WORDS[argument].items():
        kind, reason = (
            ("noted", word.always) if word.always else ("refused", word.refused) if word.refused else ("acts", "")
        )
        here = _WORD_STATUS[kind][language] + (f": {reason}" if reason else "")
        lines.append(f"| `{name}` | {word.meaning} | {here} |")
    return "\n".join([*lines, ""])


def main() -> None:
    """Writes both files."""
    folder = Path(__file__).resolve().parents[2] / "docs"
    for name, language in DOCS.items():
        (folder / name).write_text(document(language), encoding="utf-8")
        print(folder / name)


if __name__ == "__main__":
    main()
