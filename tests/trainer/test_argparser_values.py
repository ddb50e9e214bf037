"""What JSON and the command line may write for each type, and what is refused."""

from __future__ import annotations

import pytest

from paddlenlp.trainer.argparser import PdArgumentParser
from paddlenlp.trainer.options import IntervalStrategy
from paddlenlp.trainer.pretraining_args import PreTrainingArguments
from paddlenlp.utils.errors import UsageError

BASE = {"output_dir": "out", "do_train": True, "max_steps": 1}


def from_dict(name, value):
    return getattr(PdArgumentParser(PreTrainingArguments).parse_dict({**BASE, name: value})[0], name)


def from_line(name, *words):
    argv = ["--output_dir", "out", "--do_train", "--max_steps", "1", f"--{name}", *words]
    return getattr(PdArgumentParser(PreTrainingArguments).parse(argv)[0], name)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("bf16", 1, True),
        ("bf16", 0, False),
        ("bf16", "1", True),
        ("bf16", "false", False),
        ("seed", 7, 7),
        ("learning_rate", 1, 1.0),
        ("save_total_limit", 2, 2),
        ("evaluation_strategy", "steps", IntervalStrategy.STEPS),
        ("report_to", ["visualdl", "wandb"], ["visualdl", "wandb"]),
        ("report_to", "wandb", ["wandb"]),
        ("report_to", [], []),
        ("no_recompute_layers", [1, 2], [1, 2]),
        ("no_recompute_layers", 3, [3]),
        ("skip_data_intervals", [[1, 2], [5, 6]], [[1, 2], [5, 6]]),
    ],
)
def test_json_values(name, value, expected):
    found = from_dict(name, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("bf16", (), True),
        ("bf16", ("t",), True),
        ("bf16", ("NO",), False),
        ("bf16", ("0",), False),
        ("max_evaluate_steps", ("-1",), -1),
        ("learning_rate", ("3e-5",), 3e-5),
        ("save_strategy", ("no",), IntervalStrategy.NO),
        ("report_to", ("visualdl", "wandb"), ["visualdl", "wandb"]),
        ("report_to", ('["visualdl", "wandb"]',), ["visualdl", "wandb"]),
        ("no_recompute_layers", ("1", "2"), [1, 2]),
        ("no_recompute_layers", ("1,2",), [1, 2]),
        ("no_recompute_layers", ("[1, 2]",), [1, 2]),
        ("skip_data_intervals", ("1", "2"), [[1, 2]]),
        ("skip_data_intervals", ("[1, 2]", "[5, 6]"), [[1, 2], [5, 6]]),
        ("skip_data_intervals", ("[[1, 2], [5, 6]]",), [[1, 2], [5, 6]]),
        ("skip_data_intervals", ("[1,2]",), [[1, 2]]),
        ("run_name", ("10",), "10"),
        ("run_name", ("-x",), "-x"),
        ("decay_steps", ("None",), None),
    ],
)
def test_command_line_values(name, words, expected):
    found = from_line(name, *words)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("seed", 10.0, "must be an integer, found 10.0; write 10"),
        ("seed", "10", 'must be an integer, found "10"; write 10'),
        ("seed", True, "must be an integer, found true"),
        ("seed", [1], "must be an integer, found [1]"),
        ("learning_rate", "3e-5", 'must be a number, found "3e-5"; write 3e-05 without quotes'),
        ("learning_rate", float("inf"), "must be a finite number"),
        ("bf16", 2, "must be true or false, found 2"),
        ("bf16", 1.0, "must be true or false, found 1.0"),
        ("bf16", "on", 'must be true or false, found "on"'),
        ("run_name", 3, 'must be text, found 3; write "3"'),
        ("run_name", {"a": 1}, 'must be text, found {"a": 1}'),
        ("evaluation_strategy", "step", 'must be one of no, steps, epoch; found "step"; did you mean "steps"?'),
        ("report_to", ["visualdl", "wanbd"], 'found "wanbd"; did you mean "wandb"?'),
        ("no_recompute_layers", ["a"], 'must be an integer, found "a"'),
        ("skip_data_intervals", [1.5], "must be an integer"),
    ],
)
def test_refused_json_values(name, value, expected):
    with pytest.raises(UsageError) as caught:
        from_dict(name, value)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("name", "words", "expected"),
    [
        ("seed", ("1.0",), "--seed must be an integer, found 1.0; write 1"),
        ("seed", ("None",), '--seed must be an integer, found "None"'),
        ("seed", ("nan",), "--seed must be an integer"),
        ("bf16", ("maybe",), "--bf16 must be true or false"),
        ("skip_data_intervals", ("[1, 2",), "must be a list such as [[1, 2], [5, 6]], found [1, 2"),
        ("no_recompute_layers", ("1", "x"), 'must be an integer, found "x"'),
    ],
)
def test_refused_words(name, words, expected):
    with pytest.raises(UsageError) as caught:
        from_line(name, *words)
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("written", "wanted"),
    [
        (True, "true"),
        (False, "false"),
        (1, "true"),
        (0, "false"),
        ("T", "true"),
        ("auto", "auto"),
        ("require", "require"),
    ],
)
def test_flags_of_fused_operators_take_booleans_and_words(written, wanted):
    assert from_dict("use_fused_rope", written) == wanted


def test_flags_of_fused_operators_on_the_command_line():
    words = ["--use_fused_rope", "--use_fused_rms_norm", "0", "--use_flash_attention=require"]
    (made,) = PdArgumentParser(PreTrainingArguments).parse(
        [*(f"--{name}={value}" for name, value in BASE.items()), *words], check_files=False
    )
    assert (made.use_fused_rope, made.use_fused_rms_norm, made.use_flash_attention) == ("true", "false", "require")


def test_another_word_for_a_flag_of_fused_operators_is_refused():
    with pytest.raises(UsageError, match='"use_fused_rope" must be one of auto, true, false, require; found "maybe"'):
        from_dict("use_fused_rope", "maybe")
