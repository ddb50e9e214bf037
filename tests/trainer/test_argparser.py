"""PdArgumentParser: ways in, precedence, origins, strictness, one report with places, help."""

from __future__ import annotations

import json
import random
import string
import subprocess
import sys
from pathlib import Path

import pytest

from paddlenlp.trainer.argparser import PdArgumentParser
from paddlenlp.trainer.pretraining_args import DataArguments, ModelArguments, PreTrainingArguments
from paddlenlp.trainer.suggest import nearest
from paddlenlp.utils.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
CLASSES = (ModelArguments, DataArguments, PreTrainingArguments)


@pytest.fixture
def parser():
    return PdArgumentParser(CLASSES, prog="run_pretrain.py")


@pytest.fixture
def base(tmp_path):
    """The least a run needs."""
    return {"input_dir": str(tmp_path), "output_dir": str(tmp_path / "out"), "do_train": True, "max_steps": 10}


def write(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
    return str(path)


def problems(parser, argv):
    """The lines of the report, without its head and foot."""
    with pytest.raises(UsageError) as caught:
        parser.parse(argv)
    return [line.strip() for line in str(caught.value).splitlines()[1:-1]]


def test_json_file(parser, base, tmp_path):
    model, data, training = parser.parse([write(tmp_path, {**base, "bf16": 1, "num_hidden_layers": 3})])
    assert (type(model), type(data), type(training)) == CLASSES
    assert (model.num_hidden_layers, data.input_dir, training.bf16, training.max_steps) == (3, str(tmp_path), True, 10)
    assert training.learning_rate == 5e-5
    assert parser.origins["bf16"] == "config.json:6"
    assert parser.origins["learning_rate"] == "default"


def test_command_line_wins_over_the_file(parser, base, tmp_path):
    path = write(tmp_path, {**base, "learning_rate": 1e-4, "seed": 1})
    _, _, training = parser.parse([path, "--learning_rate", "2e-4", "--do_eval"])
    assert (training.learning_rate, training.seed, training.do_eval) == (2e-4, 1, True)
    assert parser.origins["learning_rate"] == parser.origins["do_eval"] == "command line"
    assert parser.origins["seed"] == "config.json:7"


def test_command_line_alone(parser, tmp_path):
    argv = f"--input_dir {tmp_path} --output_dir={tmp_path}/o --do_train --max_steps 5 --no_skip_warmup".split()
    _, data, training = parser.parse(argv)
    assert (training.output_dir, training.do_train, data.skip_warmup) == (f"{tmp_path}/o", True, False)


def test_the_references_method_names(parser, base, tmp_path, monkeypatch):
    path = write(tmp_path, base)
    monkeypatch.setattr(sys, "argv", ["run_pretrain.py", path, "--seed", "7"])
    assert parser.parse_json_file_and_cmd_lines()[2].seed == 7
    assert parser.parse_json_file(path)[2].max_steps == 10
    assert parser.parse_dict({**base, "seed": 9})[2].seed == 9
    assert parser.parse_args_into_dataclasses(args=[path, "--seed", "8"])[2].seed == 8


def test_one_class_alone():
    (training,) = PdArgumentParser(PreTrainingArguments).parse(
        ["--output_dir", "out", "--do_train", "--max_steps", "1"]
    )
    assert training.output_dir == "out"


def test_all_problems_in_one_report_with_places(parser, tmp_path):
    text = f"""{{
  "input_dir": "{tmp_path}",
  "learning_rte": 3e-4,
  "max_steps": 10.0,
  "bf16": true, "fp16": true,
  "seed": 1,
  "adam_beta2": 1.5,
  "seed": 2,
  "lr_scheduler_type": "cosin",
  "tensor_parallel_degree": 4,
  "do_train": true
}}"""
    lines = problems(parser, [write(tmp_path, text), "--save_step", "3", "--eval_steps"])
    assert lines == [
        'config.json:3: unknown key "learning_rte"; did you mean "learning_rate"?',
        'config.json:4: "max_steps" must be an integer, found 10.0; write 10',
        "config.json:5: fp16 and bf16 exclude each other; set one of them to false",
        "config.json:7: adam_beta2 must be >= 0 and < 1, found 1.5",
        'config.json:8: "seed" is given twice, in lines 6 and 8; delete one',
        'config.json:9: "lr_scheduler_type" must be one of linear, cosine, constant, constant_with_warmup, polynomial; '
        'found "cosin"; did you mean "cosine"?',
        "config.json:10: tensor_parallel_degree 4 asked for, and this is one process; start 4 of them, or a multiple: "
        "python -m paddle.distributed.launch --nproc_per_node 4 llm/run_pretrain.py ...",
        'command line: unknown argument --save_step; did you mean "--save_steps"?',
        "command line: --eval_steps needs a value",
        'not set: "output_dir" is required: Folder for checkpoints, the final model, metrics and logs; made if it is '
        "missing.",
    ]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lora", "parameter-efficient tuning"),
        ("dpo_beta", "pretrains"),
        ("weight_quantize_algo", "quantised"),
        ("tensor_model_parallel_size", '"tensor_parallel_degree"'),
        ("eval_strategy", '"evaluation_strategy"'),
        ("no_skip_warmup", 'write "skip_warmup": false'),
        ("adam_beta", '"adam_beta1" or "adam_beta2"?'),
        ("zzzzzz", 'unknown key "zzzzzz"'),
    ],
)
def test_names_that_are_not_ours(parser, base, tmp_path, name, expected):
    (line,) = problems(parser, [write(tmp_path, {**base, name: 1})])
    assert expected in line


@pytest.mark.parametrize("name", ["se", "learning", "--", "max_step", "do"])
def test_beginnings_of_names_are_refused(parser, base, tmp_path, name):
    assert f'unknown key "{name}"' in problems(parser, [write(tmp_path, {**base, name: 1})])[0]


def test_a_long_beginning_suggests_what_it_begins(parser, base, tmp_path):
    (line,) = problems(parser, [write(tmp_path, {**base, "per_device_train": 1})])
    assert line.endswith('did you mean "per_device_train_batch_size"? (beginnings of names are not accepted)')


def test_a_misspelt_name_is_not_also_reported_as_missing(parser, base, tmp_path):
    del base["do_train"], base["max_steps"]
    lines = problems(parser, [write(tmp_path, {**base, "do_trian": True, "max_step": 3})])
    assert len(lines) == 2
    assert all("unknown key" in line for line in lines)


def test_a_byte_order_mark_is_skipped(parser, base, tmp_path):
    assert parser.parse([write(tmp_path, "\ufeff" + json.dumps(base))])[2].max_steps == 10


def one_edit(rng, word, known):
    while True:
        i, letter = rng.randrange(len(word)), rng.choice(string.ascii_lowercase + "_")
        swapped = word[:i] + word[i + 1 : i + 2] + word[i] + word[i + 2 :]
        edited = rng.choice(
            [word[:i] + word[i + 1 :], word[:i] + letter + word[i:], word[:i] + letter + word[i + 1 :], swapped]
        )
        if edited not in known:
            return edited


def test_the_first_suggestion_is_right_for_98_of_100_typing_errors(parser):
    rng, names = random.Random(0), list(parser.fields)
    words = [rng.choice(names) for _ in range(500)]
    right = sum(nearest(one_edit(rng, word, names), names)[:1] == [word] for word in words)
    assert right >= 490


def test_null_means_the_default(parser, base, tmp_path):
    path = write(tmp_path, {**base, "decay_steps": None, "seed": None, "run_name": None, "eval_steps": 4})
    _, _, training = parser.parse([path, "--eval_steps", "null"])
    assert (training.decay_steps, training.seed, training.run_name, training.eval_steps) == (None, 42, None, None)
    assert parser.origins["seed"] == parser.origins["eval_steps"] == "default"


def test_null_for_a_required_argument_is_missing(parser, base, tmp_path):
    (line,) = problems(parser, [write(tmp_path, {**base, "output_dir": None})])
    assert line.startswith('not set: "output_dir" is required')


def test_the_last_of_two_on_the_command_line_counts_and_is_noted(parser, base, tmp_path):
    _, _, training = parser.parse([write(tmp_path, base), "--seed", "1", "--seed", "2"])
    assert training.seed == 2
    assert any("--seed is given more than once" in note for note in parser.notes)


@pytest.mark.parametrize(
    ("text", "line", "expected"),
    [
        ('{"seed": 1,\n "bf16": True}', 2, "write true, not True"),
        ('{"seed": 1,\n}', 2, "comma before the closing brace"),
        ('{"seed": 1\n "bf16": 1}', 2, "expected a comma"),
        ("{'seed': 1}", 1, "a key in double quotes"),
        ('{"run_name": abc}', 1, 'put text in double quotes: "abc"'),
        ("[1]", 1, "a JSON object in braces"),
        ('{"seed": 1', 1, "found the end"),
        ("", 1, "found the end"),
        ('{"seed": 1}\n{}', 2, "text after the closing brace"),
    ],
)
def test_wrong_json_is_told_with_its_line(parser, tmp_path, text, line, expected):
    (found,) = [line for line in problems(parser, [write(tmp_path, text)]) if "not valid JSON" in line]
    assert found.startswith(f"config.json:{line}: not valid JSON")
    assert expected in found


def test_what_stands_before_wrong_json_is_checked_too(parser, tmp_path):
    lines = problems(parser, [write(tmp_path, '{"learning_rte": 1,\n "seed": }')])
    assert ["learning_rte" in lines[0], "not valid JSON" in lines[1]] == [True, True]
    assert not any("output_dir" in line for line in lines)


def test_missing_file_names_its_neighbour(parser, tmp_path):
    write(tmp_path, {})
    with pytest.raises(UsageError, match=r"The argument file .*confg.json does not exist.*Did you mean .*config.json"):
        parser.parse([str(tmp_path / "confg.json")])


def test_stray_values_and_valued_negations(parser, base, tmp_path):
    lines = problems(parser, [write(tmp_path, base), "stray", "--no_skip_warmup", "false", "--seed", "1", "2"])
    assert 'unexpected "stray"' in lines[0]
    assert "--no_skip_warmup takes no value; write --skip_warmup true or false" in lines[1]
    assert "takes one value, found 2: 1 2" in lines[2]


def test_negation_is_only_for_what_is_on_by_default(parser, base, tmp_path):
    assert "unknown argument --no_bf16" in problems(parser, [write(tmp_path, base), "--no_bf16"])[0]


def test_a_reused_parser_starts_afresh(parser, base, tmp_path):
    path = write(tmp_path, base)
    problems(parser, [path, "--sed", "1"])
    parser.parse([path])
    assert parser.origins["seed"] == "default"


def test_help_is_complete_and_grouped(parser, capsys):
    with pytest.raises(SystemExit) as caught:
        parser.parse(["--help"])
    text = capsys.readouterr().out
    assert caught.value.code == 0
    assert all(f"--{name}  (" in text for name in parser.fields)
    assert text.index("Optimizer\n") < text.index("--adam_beta1") < text.index("Learning rate schedule\n")


def test_help_on_a_word(parser, capsys):
    for argv in (["--help", "warmup"], ["c.json", "--seed", "1", "--help", "warmup"]):
        with pytest.raises(SystemExit):
            parser.parse(argv)
        text = capsys.readouterr().out
        assert [name for name in parser.fields if f"--{name}  (" in text] == [
            "skip_warmup",
            "warmup_ratio",
            "warmup_steps",
        ]
    with pytest.raises(SystemExit):
        parser.parse(["--help", "wramup_steps"])
    assert "Near it: warmup_steps" in capsys.readouterr().out


def test_a_misspelt_config_is_refused_without_importing_paddle(tmp_path):
    program = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from paddlenlp.trainer.argparser import PdArgumentParser
from paddlenlp.trainer.pretraining_args import DataArguments, ModelArguments, PreTrainingArguments
from paddlenlp.trainer.run_record import versions
versions()
try:
    PdArgumentParser((ModelArguments, DataArguments, PreTrainingArguments)).parse()
except ValueError as error:
    print(error)
print([name for name in ("paddle", "numpy", "torch") if name in sys.modules])
"""
    path = write(tmp_path, {"learning_rte": 1})
    done = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60)
    assert 'did you mean "learning_rate"' in done.stdout, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
