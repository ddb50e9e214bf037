"""Rules among the arguments: each row fails when it should, says what to set, and stays quiet otherwise."""

from __future__ import annotations

import json
import os
from dataclasses import fields

import pytest

from paddlenlp.trainer import rules
from paddlenlp.trainer.argparser import PdArgumentParser
from paddlenlp.trainer.fields import status_of
from paddlenlp.trainer.options import OPTION_WORDS, check_options, option_notes, parse_options
from paddlenlp.trainer.path_rules import PATH_RULES
from paddlenlp.trainer.pretraining_args import DataArguments, ModelArguments, PreTrainingArguments
from paddlenlp.trainer.remarks import REMARKS
from paddlenlp.utils.errors import UsageError

CLASSES = (ModelArguments, DataArguments, PreTrainingArguments)
BASE = {"input_dir": "data", "output_dir": "out", "do_train": True, "max_steps": 10}


def parsed(**given):
    parser = PdArgumentParser(CLASSES)
    made = parser.parse_dict({**BASE, **given})
    return made, parser.notes


def report(**given):
    with pytest.raises(UsageError) as caught:
        parsed(**given)
    return [line.strip().partition(": ")[2] for line in str(caught.value).splitlines()[1:-1]]


BROKEN = [
    ({"do_train": False}, "nothing to do: set do_train, do_eval or do_predict"),
    ({"input_dir": None}, "input_dir must be set"),
    (
        {"max_steps": None, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 4},
        "8 samples = 8,192 tokens",
    ),
    ({"split": "a,b"}, "split is 'a,b'"),
    ({"split": "1,-1"}, "Expected up to three numbers"),
    ({"split": "0,1,1"}, "leaves nothing for training (asked for by do_train)"),
    (
        {"split": "1,0,0", "do_eval": True, "do_predict": True},
        "validation (asked for by do_eval) and test (asked for by",
    ),
    ({"fp16": True, "bf16": True}, "fp16 and bf16 exclude each other"),
    ({"fp16_full_eval": True, "bf16_full_eval": True}, "fp16_full_eval and bf16_full_eval exclude each other"),
    ({"device": "npu"}, 'device "npu" is not supported; write "cpu", "gpu" or "gpu:0"'),
    ({"learning_rate": 1e-6}, "min_learning_rate 1e-05 is above learning_rate 1e-06; set min_learning_rate to at most"),
    ({"lr_scheduler_type": "polynomial", "lr_end": 1e-3}, "lr_end 0.001 is not below learning_rate"),
    ({"decay_steps": 5, "warmup_steps": 5}, "decay_steps 5 does not lie after the 5 steps of warm-up"),
    ({"skip_data_intervals": [[0, 3]]}, "must hold pairs [first, last]"),
    ({"skip_data_intervals": [[3, 2]]}, "must hold pairs [first, last]"),
    ({"skip_data_intervals": [[1, 2, 3]]}, "must hold pairs [first, last]"),
    ({"profile_steps": [3]}, "profile_steps [3] must be the first and the last step to profile"),
    ({"profile_steps": [4, 3]}, "counted from 1, the last at most max_steps"),
    ({"bad_step_policy": "rollback", "save_strategy": "no"}, "needs whole checkpoints to go back to"),
    ({"bad_step_policy": "rollback", "ignore_save_lr_and_optim": True}, "needs whole checkpoints to go back to"),
    ({"dry_run_step": True}, "dry_run_step belongs to dry_run: set dry_run too"),
    ({"dry_run_processes": 8}, "dry_run_processes belongs to dry_run"),
    ({"no_recompute_layers": [-1]}, "layer numbers from 0 up"),
    ({"load_best_model_at_end": True}, "load_best_model_at_end needs an evaluation at every checkpoint"),
    (
        {"load_best_model_at_end": True, "do_eval": True, "eval_steps": 3, "save_steps": 4},
        "save_steps (4) must be a multiple",
    ),
    ({"load_best_model_at_end": True, "do_eval": True, "save_strategy": "epoch"}, "evaluation_strategy (steps) and"),
    (
        {"load_best_model_at_end": True, "do_eval": True, "eval_steps": 5, "metric_for_best_model": "accuracy"},
        'metric_for_best_model "accuracy" is not measured',
    ),
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size must be >= 1, found 0"),
    ({"warmup_ratio": 1.5}, "warmup_ratio must be >= 0 and <= 1, found 1.5"),
    ({"adam_epsilon": 0}, "adam_epsilon must be > 0, found 0"),
    ({"hidden_dropout_prob": 1}, "hidden_dropout_prob must be >= 0 and < 1, found 1"),
    ({"to_static": True}, "to_static true is not available: training runs in dynamic mode only"),
    ({"optim": "adafactor"}, 'optim "adafactor" is not available: AdamW is the one optimizer'),
    ({"amp_custom_black_list": ["softmax"]}, "leave it out or write null"),
    (
        {"unified_checkpoint_config": "ignore_merge_optimizer enable_all_options"},
        '"ignore_merge_optimizer" does not go with "skip_save_model_weight"',
    ),
    ({"pipeline_parallel_config": "use_dualpipev"}, "the schedules are 1F1B and interleaved 1F1B; leave it out"),
    ({"sharding_parallel_config": "split_parm"}, 'unknown word "split_parm"; did you mean "split_param"?'),
]


@pytest.mark.parametrize(("given", "expected"), BROKEN, ids=lambda value: str(value)[:60])
def test_a_broken_rule_is_the_one_problem_reported(given, expected):
    (line,) = report(**given)
    assert expected in line


def test_every_row_of_the_table_is_broken_once_above():
    """A row nobody can break would be dead."""
    seen = set()
    for given, _ in BROKEN:
        made = [cls(**{**({"output_dir": "out"} if cls is PreTrainingArguments else {}), **{
            name: value for name, value in {**BASE, **given}.items()
            if name in cls.__dataclass_fields__ and value is not None
        }}) for cls in CLASSES]  # fmt: skip
        view = rules.View(made)
        seen |= {index for index, rule in enumerate(rules.RULES) if rule.applies(view)}
    assert seen == set(range(len(rules.RULES)))


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"tensor_parallel_degree": 1, "pipeline_parallel_degree": -1, "sharding": "", "virtual_pp_degree": 1},
        {"sequence_parallel": 0, "optim": "adamw", "to_static": False, "ckpt_quant_stage": "O0"},
        {"load_best_model_at_end": True, "do_eval": True, "eval_steps": 3, "save_steps": 6},
        {"load_best_model_at_end": True, "evaluation_strategy": "epoch", "save_strategy": "epoch"},
        {"device": "gpu:1"},
        {"split": "998/2", "do_eval": True},
        {"split": "1,0,0", "do_predict": True, "autotuner_benchmark": True},
        {"lr_scheduler_type": "constant", "learning_rate": 1e-6},
        {"do_train": False, "do_predict": True, "max_steps": None},
        {"autotuner_benchmark": True, "max_steps": None},
        {"tensor_parallel_config": "enable_mp_skip_c_identity sync_grad"},
    ],
    ids=str,
)
def test_what_is_right_passes(given):
    parsed(**given)


BASE_TRAINING = {"output_dir": "out", "do_train": True, "max_steps": 10}
IDLE = [item for item in fields(PreTrainingArguments) if status_of(item)[0] != "acts"]


@pytest.mark.parametrize("item", IDLE, ids=lambda item: item.name)
def test_arguments_that_do_nothing_are_refused_or_noted(item):
    status, reason = status_of(item)
    other = {bool: not item.default, int: 7, str: "x", float: 7.0}.get(type(item.default), ["x"])
    made = PreTrainingArguments(**{**BASE_TRAINING, item.name: other})
    failed = [text for _, text in rules.failures([made], {}) if text.startswith(f"{item.name} ")]
    noted = [note for note in rules.notes([made], {}) if note.startswith(f"{item.name} (")]
    assert any(reason in text for text in (failed if status == "refused" else noted))


REMARKABLE = [
    ({"warmup_steps": 3, "warmup_ratio": 0.1}, "warmup_steps 3 is used; warmup_ratio 0.1 is ignored."),
    ({"warmup_steps": 30}, "The warm-up of 30 steps is longer than the run of 10"),
    ({"do_eval": True, "evaluation_strategy": "no", "eval_steps": 2}, "so evaluation_strategy no is read as steps"),
    ({"do_eval": True, "logging_steps": 4}, "eval_steps is not set: evaluating every 4 steps (logging_steps)"),
    ({"save_strategy": "epoch"}, "a pretraining run is one epoch"),
    ({"fp16_opt_level": "O2"}, "fp16_opt_level O2 changes nothing without bf16 or fp16"),
    ({"fp16_opt_level": "O0", "bf16": True}, "training in float32"),
    ({"amp_master_grad": True, "bf16": True}, "amp_master_grad changes nothing"),
    ({"no_recompute_layers": [0]}, "no_recompute_layers changes nothing without recompute"),
    ({"autotuner_benchmark": True}, "autotuner_benchmark: 5 steps from random weights"),
]


@pytest.mark.parametrize(("given", "expected"), REMARKABLE, ids=lambda value: str(value)[:60])
def test_remarks(given, expected):
    notes = parsed(**given)[1]
    assert len(notes) == 1
    assert expected in notes[0]


def test_there_is_a_test_for_every_remark():
    assert len(REMARKABLE) == len(REMARKS)


def test_a_plain_run_has_nothing_to_remark():
    assert parsed()[1] == []


def test_notes_name_the_place():
    notes = parsed(model_type="llama", distributed_dataloader=1)[1]
    assert notes[0].startswith("model_type (dictionary) changes nothing: the family is the model_type")
    assert notes[1].startswith("distributed_dataloader (dictionary) changes nothing")


def test_check_of_arguments_made_by_hand():
    rules.check(PreTrainingArguments(**BASE_TRAINING))
    with pytest.raises(UsageError, match=r"(?s)seed must be >= 0.*fp16 and bf16"):
        rules.check(PreTrainingArguments(**BASE_TRAINING, seed=-1, fp16=True, bf16=True))


@pytest.mark.parametrize("argument", OPTION_WORDS)
def test_every_option_word_has_an_answer(argument):
    """A word acts, changes nothing for a reason, or is refused for one."""
    for name, word in OPTION_WORDS[argument].items():
        assert not (word.always and word.refused)
        assert bool(word.refused) == any("is not available" in problem for problem in check_options(argument, name))
        assert option_notes(argument, name) == ([f'"{name}" changes nothing: {word.always}'] if word.always else [])


def test_option_words_are_split_at_commas_or_blanks():
    words = ["skip_save_model_weight", "remove_master_weight"]
    for text in (" ".join(words), ",".join(words), " , ".join(words)):
        assert parse_options("unified_checkpoint_config", text) == words
    assert parse_options("unified_checkpoint_config", "") == []
    with pytest.raises(UsageError, match=r"unified_checkpoint_config .*unknown word"):
        parse_options("unified_checkpoint_config", "nonsense")


# ---- folders ---------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path):
    """A run whose folders are all there."""
    for name in ("data", "tokenizer", "model"):
        (tmp_path / name).mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    given = {
        "model_name_or_path": "model",
        "tokenizer_name_or_path": "tokenizer",
        "input_dir": "data",
        "output_dir": "out",
    }
    return {**BASE, **{name: str(tmp_path / value) for name, value in given.items()}}


def path_report(tmp_path, given):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(given))
    parser = PdArgumentParser(CLASSES)
    try:
        parser.parse([str(path)])
    except UsageError as error:
        return [line.strip() for line in str(error).splitlines()[1:-1]]
    return []


def test_folders_that_are_there(folders, tmp_path):
    assert path_report(tmp_path, folders) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("input_dir", "nowhere", "the folder input_dir"),
        ("model_name_or_path", "./nowhere", 'the model folder "./nowhere" does not exist'),
        ("model_name_or_path", "a/b/c", 'the model folder "a/b/c" does not exist'),
        ("tokenizer_name_or_path", "./nowhere", 'the tokenizer folder "./nowhere" does not exist'),
        ("config_name", "./nowhere", 'the model folder "./nowhere" does not exist'),
        ("config_name", "{tmp}/data", "has no config.json"),
        ("continue_training", True, "continue_training needs weights"),
        ("resume_from_checkpoint", "{tmp}/none", "the checkpoint folder resume_from_checkpoint"),
        ("output_dir", "{tmp}/file/out", "cannot be made or written"),
        ("data_cache", "{tmp}/file", "cannot be made or written"),
    ],
)
def test_folders_that_are_not(folders, tmp_path, name, value, expected):
    (tmp_path / "file").write_text("")
    value = value.format(tmp=tmp_path) if isinstance(value, str) else value
    (line,) = path_report(tmp_path, {**folders, name: value})
    assert expected in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(folders, tmp_path):
    (tmp_path / "closed").mkdir(mode=0o500)
    (line,) = path_report(tmp_path, {**folders, "output_dir": str(tmp_path / "closed" / "out")})
    assert "cannot be made or written" in line


@pytest.mark.parametrize("value", ["meta-llama/Llama-3", "gpt2", "0.3 a 0.7 b", "{tmp}/data/one"])
def test_names_that_need_no_folder(folders, tmp_path, value):
    (tmp_path / "data/one.idx").write_text("")
    name = "model_name_or_path" if value[0] in "mg" else "input_dir"
    assert path_report(tmp_path, {**folders, name: value.format(tmp=tmp_path)}) == []


def test_weights_satisfy_continue_training(folders, tmp_path):
    (tmp_path / "model/model.safetensors").write_text("")
    assert path_report(tmp_path, {**folders, "continue_training": True}) == []


def test_path_rules_are_left_out_when_not_asked_for(folders):
    parser = PdArgumentParser(CLASSES)
    parser.parse(
        [f"--{name}={value}" for name, value in {**folders, "input_dir": "nowhere"}.items()], check_files=False
    )
    assert len(PATH_RULES) == 8
