"""The argument classes: names, types and defaults of the reference, completeness, derived values."""

from __future__ import annotations

import json
import re
from dataclasses import MISSING, fields
from pathlib import Path
from typing import get_type_hints

import pytest

from paddlenlp.nn.flags import FLAGS, WORDS
from paddlenlp.trainer.argument_docs import OWN
from paddlenlp.trainer.fields import GROUPS, STATUS, status_of
from paddlenlp.trainer.options import OPTION_WORDS, IntervalStrategy
from paddlenlp.trainer.pretraining_args import DataArguments, ModelArguments, PreTrainingArguments
from paddlenlp.trainer.training_args import TrainingArguments
from paddlenlp.trainer.values import unwrap_optional
from paddlenlp.utils.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]
CLASSES = {"model": ModelArguments, "data": DataArguments, "training": PreTrainingArguments}
REFERENCE = json.loads((Path(__file__).parent / "reference_arguments.json").read_text(encoding="utf-8"))
ALL = [item for cls in CLASSES.values() for item in fields(cls)]
ADDED = {*OWN, "model_type", "config_name"}


def args(**given):
    return PreTrainingArguments("out", **given)


def type_text(kind):
    """A type as the reference's table writes it, without Optional."""
    kind, _ = unwrap_optional(kind)
    return getattr(kind, "__name__", "") if not hasattr(kind, "__args__") else str(kind).replace("typing.", "")


@pytest.mark.parametrize("kind", CLASSES)
def test_names_types_and_defaults_are_the_references(kind):
    cls, hints = CLASSES[kind], get_type_hints(CLASSES[kind])
    declared = {item.name: item for item in fields(cls)}
    assert set(declared) - ADDED == set(REFERENCE[kind])
    for name, (wanted_type, wanted) in REFERENCE[kind].items():
        default = declared[name].default
        if declared[name].metadata.get("choices") == WORDS:
            assert (wanted_type, wanted, default) == ("bool", False, "auto"), name
            continue
        assert ("<required>" if default is MISSING else default) == wanted, name
        assert type_text(hints[name]) == re.sub(r"Optional\[(.*)\]", r"\1", wanted_type), name
        assert unwrap_optional(hints[name])[1] or default is not None, f"{name} may be None but is not Optional"


def test_own_additions():
    assert {item.name for item in ALL} & ADDED == ADDED


@pytest.mark.parametrize("item", ALL, ids=lambda item: item.name)
def test_every_argument_is_declared_in_full(item):
    status, reason = status_of(item)
    assert item.metadata["group"] in GROUPS
    assert status in STATUS
    assert bool(reason) == (status != "acts")
    assert re.fullmatch(r"[A-Z].*[.)]", item.metadata["help"])


def test_every_group_is_used_and_no_name_comes_twice():
    assert {item.metadata["group"] for item in ALL} == set(GROUPS)
    assert len({item.name for item in ALL}) == len(ALL)


def test_tables_name_real_arguments():
    names = {item.name for item in ALL}
    assert set(OPTION_WORDS) <= names


def test_every_acting_argument_is_read_outside_its_declaration():
    own = re.compile(r"(_args|rules|remarks|argument_docs|foreign)\.py")
    sources = [path for room in ("paddlenlp", "llm") for path in (ROOT / room).rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources if not own.search(path.name))
    for name in ("training_args.py", "pretraining_args.py", "placement.py"):  # the properties
        properties = re.findall(r"self\.\w+", (ROOT / "paddlenlp/trainer" / name).read_text(encoding="utf-8"))
        text += "\n".join(properties)
    acting = [item.name for item in ALL if status_of(item)[0] == "acts"]
    assert [name for name in acting if not re.search(rf'\.{name}\b|"{name}"', text)] == []


def test_fields_are_plain_data(tmp_path):
    made = TrainingArguments(str(tmp_path / "out"), do_eval=True)
    assert made.evaluation_strategy == "no"
    assert not (tmp_path / "out").exists()


def test_ranks_come_from_the_launcher(monkeypatch):
    assert (args().world_size, args().process_index, args().should_log) == (1, 0, True)
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "8")
    monkeypatch.setenv("PADDLE_TRAINER_ID", "4")
    monkeypatch.setenv("PADDLE_RANK_IN_NODE", "0")
    made = args(per_device_train_batch_size=2, gradient_accumulation_steps=3)
    assert (made.world_size, made.process_index, made.local_process_index) == (8, 4, 0)
    assert (made.dataset_world_size, made.dataset_rank, made.samples_per_step) == (8, 4, 48)
    assert made.should_log and not args(log_on_each_node=False).should_log


def test_batch_sizes():
    made = args(per_device_train_batch_size=3, per_device_eval_batch_size=5, gradient_accumulation_steps=4)
    assert (made.train_batch_size, made.eval_batch_size, made.samples_per_step) == (3, 5, 12)


@pytest.mark.parametrize(
    ("given", "storage", "amp"),
    [
        ({}, "float32", None),
        ({"fp16_opt_level": "O2"}, "float32", None),
        ({"bf16": True}, "float32", "bfloat16"),
        ({"fp16": True}, "float32", "float16"),
        ({"bf16": True, "fp16_opt_level": "O2"}, "bfloat16", "bfloat16"),
        ({"fp16": True, "fp16_opt_level": "O2"}, "float16", "float16"),
        ({"fp16": True, "fp16_opt_level": "O0"}, "float32", None),
    ],
)
def test_dtypes(given, storage, amp):
    assert (args(**given).dtype, args(**given).amp_dtype) == (storage, amp)
    assert args(amp_master_grad=True, **given).effective_amp_master_grad == (storage != "float32")


def test_eval_dtype():
    assert args().eval_dtype is None
    assert args(bf16_full_eval=True).eval_dtype == "bfloat16"
    assert args(fp16_full_eval=True).eval_dtype == "float16"


def test_warmup_steps_win_over_the_ratio_which_is_not_rounded():
    assert args(max_steps=50, warmup_ratio=0.01).warmup() == 0.5
    assert args(max_steps=50, warmup_ratio=0.01, warmup_steps=30).warmup() == 30
    assert args(max_steps=50, warmup_ratio=0.1).warmup(200) == 20


def test_decay_steps_default_to_max_steps():
    assert args(max_steps=50).effective_decay_steps == 50
    assert args(max_steps=50, decay_steps=40.0).effective_decay_steps == 40


def test_evaluation():
    assert not args().eval_enabled
    assert args(do_eval=True).effective_evaluation_strategy == IntervalStrategy.STEPS
    assert args(evaluation_strategy="epoch", do_eval=True).effective_evaluation_strategy == IntervalStrategy.EPOCH
    assert args(evaluation_strategy="steps").eval_enabled
    assert args(logging_steps=7).effective_eval_steps == 7
    assert args(eval_steps=20, logging_steps=7).effective_eval_steps == 20
    assert args(eval_steps=20, max_steps=100, minimum_eval_times=10).effective_eval_steps == 10
    assert args(eval_steps=5, max_steps=100, minimum_eval_times=10).effective_eval_steps == 5
    assert args(eval_steps=5, max_steps=3, minimum_eval_times=10).effective_eval_steps == 1


def test_saving():
    assert args().save_enabled
    assert not args(save_strategy="no").save_enabled
    assert args().unified_checkpoint_options == set()
    assert args(unified_checkpoint_config="enable_all_options,remove_master_weight").unified_checkpoint_options == {
        "skip_save_model_weight",
        "master_weight_compatible",
        "remove_master_weight",
    }
    with pytest.raises(UsageError, match='unknown word "remove_master_weigth"; did you mean "remove_master_weight"'):
        _ = args(unified_checkpoint_config="remove_master_weigth").unified_checkpoint_options


def test_best_model():
    assert args().effective_metric_for_best_model == "eval_loss"
    assert args(metric_for_best_model="eval_ppl").effective_metric_for_best_model == "eval_ppl"
    assert not args().effective_greater_is_better
    assert not args(metric_for_best_model="ppl").effective_greater_is_better
    assert args(metric_for_best_model="accuracy").effective_greater_is_better
    assert args(greater_is_better=True).effective_greater_is_better


def test_reporters():
    assert args().reporters == ["visualdl"]
    assert args(report_to=["none"]).reporters == args(report_to=[]).reporters == []
    assert args(report_to=["all"]).reporters == ["visualdl", "tensorboard", "wandb"]
    assert args(report_to=["wandb"]).reporters == ["wandb"]


def test_places_of_logs():
    assert args(logging_dir="here").effective_logging_dir == "here"
    assert re.match(r"out/runs/[A-Z][a-z]{2}\d\d_\d\d-\d\d-\d\d_.+", args().effective_logging_dir)
    assert (args().effective_run_name, args(run_name="r").effective_run_name) == ("out", "r")
    assert (args().effective_disable_tqdm, args(disable_tqdm=True).effective_disable_tqdm) == (False, True)


def test_skipped_steps():
    made = args(skip_data_intervals=[[2, 3], [6, 6]])
    assert [step for step in range(1, 9) if made.skips_step(step)] == [2, 3, 6]
    assert not args().skips_step(1)


def test_place():
    assert [args(device=device).place for device in ("cpu", "gpu", "gpu:1", None)] == ["cpu", "gpu", "gpu", "gpu"]
    assert args(no_cuda=True).place == "cpu"


def test_autotuner_benchmark_leaves_the_fields_alone():
    asked = {
        "max_steps": 100,
        "do_predict": True,
        "do_eval": True,
        "load_best_model_at_end": True,
        "report_to": ["wandb"],
    }
    plain, made = args(**asked), args(autotuner_benchmark=True, **asked)
    assert (made.max_steps, made.do_eval) == (100, True)
    assert (made.effective_max_steps, made.train_enabled, made.predict_enabled) == (5, True, False)
    assert (made.eval_enabled, made.save_enabled, made.reporters) == (False, False, [])
    assert (made.effective_load_best_model_at_end, made.effective_overwrite_output_dir) == (False, True)
    assert (plain.effective_max_steps, plain.train_enabled, plain.predict_enabled) == (100, False, True)
    assert (plain.eval_enabled, plain.save_enabled, plain.reporters) == (True, True, ["wandb"])
    assert (plain.effective_load_best_model_at_end, plain.effective_overwrite_output_dir) == (True, False)


def test_sources():
    made = ModelArguments("model")
    assert (made.config_source, made.tokenizer_source) == ("model", "model")
    made = ModelArguments("model", tokenizer_name_or_path="tok", config_name="shape")
    assert (made.config_source, made.tokenizer_source) == ("shape", "tok")


def test_the_flags_of_fused_operators_are_those_of_the_chooser():
    declared = {item.name for item in ALL if item.metadata.get("choices") == WORDS}
    assert declared | {"use_fused_dropout_add"} == set(FLAGS)
