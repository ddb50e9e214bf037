"""Every file of arguments under llm/config: it parses for the job it is written for, and a tiny model of its family
trains with it."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest
from ranks import ROOT

from paddlenlp.trainer import DataArguments, ModelArguments, PdArgumentParser, PreTrainingArguments
from paddlenlp.trainer.model_fit import check_model_fits
from paddlenlp.transformers import AutoConfig
from paddlenlp.transformers.auto.families import FAMILIES
from paddlenlp.transformers.known_models import known_config

CONFIG = ROOT / "llm/config"
FILES = sorted(str(path.relative_to(CONFIG)) for path in CONFIG.glob("*/*.json") if "tiny" not in path.name)
MEASURED = [name for name in FILES if "stage2" in name]
TRAINED = [name for name in FILES if name.endswith("/pretrain_argument.json") or name.startswith("qwen/")]
PROCESSES = {"glm-130b": 64}
"""Processes a folder's files are for, where that is not 8."""
UNKNOWN = ("linly-ai/chinese-llama-2-7b",)
"""Models that are not built in: their config.json is read from the hub."""

SMALL: Dict[str, Any] = {
    "hidden_size": 32,
    "num_attention_heads": 4,
    "n_head": 4,
    "head_dim": 8,
    "kv_channels": 8,
    "multi_query_group_num": 2,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 4,
    "v_head_dim": 8,
    "n_group": 2,
    "topk_group": 1,
    "num_experts_per_tok": 2,
    "mask_token_id": 4,
    "gmask_token_id": 5,
    "bos_token_id": 6,
    "eos_token_id": 2,
    "pad_token_id": 0,
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer"), 2),
    **dict.fromkeys(("intermediate_size", "inner_hidden_size", "ffn_hidden_size"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("n_routed_experts", "num_experts", "num_local_experts"), 8),
    **dict.fromkeys(("vocab_size", "padded_vocab_size"), 256),
    **dict.fromkeys(("max_position_embeddings", "seq_length", "model_max_length", "max_sequence_length"), 64),
}
"""Sizes of a tiny model; a configuration takes those that it has."""


def parsed(name: str) -> List[Any]:
    parser = PdArgumentParser((ModelArguments, DataArguments, PreTrainingArguments))
    return list(parser.parse([str(CONFIG / name)]))


def shrunk(values: Dict[str, Any]) -> Dict[str, Any]:
    """The configuration of a tiny model of the same kind."""
    tiny = {name: SMALL.get(name, value) for name, value in values.items()}
    if "num_key_value_heads" in values:
        grouped = values["num_key_value_heads"] < values["num_attention_heads"]
        tiny["num_key_value_heads"] = 2 if grouped else 4
    return tiny


@pytest.fixture
def job(tmp_path, monkeypatch):
    """job(name): as if this were one process of the job that a file is for, in a folder with data in it."""

    def join(name: str) -> None:
        (tmp_path / "data").mkdir()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", str(PROCESSES.get(name.split("/")[0], 8)))

    return join


def model_of(name: str) -> str:
    return json.loads((CONFIG / name).read_text())["model_name_or_path"]


def test_every_family_has_a_file_that_is_tried():
    found = {type(AutoConfig.from_pretrained(model_of(name))) for name in TRAINED}
    assert found == {family.config_class() for family in FAMILIES}


def test_the_runs_of_the_performance_table_are_there(job):
    assert len(MEASURED) == 11
    job(MEASURED[0])
    for name in MEASURED:
        model_args, data_args, args = parsed(name)
        tp, sharding = (1, 8) if "sd8" in name else (2, 4)
        assert (args.mesh.tp, args.mesh.sharding, args.mesh.pp, args.sharding) == (tp, sharding, 1, "stage2")
        assert (args.samples_per_step, data_args.max_seq_length, args.fp16_opt_level) == (64, 4096, "O2")
        assert args.bf16 and args.use_flash_attention and args.use_fused_rope
        assert args.recompute == ("sd8" in name)
        assert args.use_fused_rms_norm == (model_args.model_name_or_path != "meta-llama/Llama-2-7b")


@pytest.mark.parametrize("name", FILES)
def test_a_file_parses_and_its_model_can_be_shared_out(job, name):
    job(name)
    model_args, _, args = parsed(name)
    assert args.world_size == PROCESSES.get(name.split("/")[0], 8)
    if model_args.model_name_or_path not in UNKNOWN:
        config = AutoConfig.from_pretrained(model_args.model_name_or_path)
        check_model_fits(config, args)


@pytest.fixture(scope="module")
def trained(request, materials, tmp_path_factory):
    """File -> what two steps with its arguments left: (what went wrong, folder with model and out).

    One process trains those that are asked for, one after the other.
    """
    top = tmp_path_factory.mktemp("configs")
    asked = [getattr(item, "callspec", None) for item in request.session.items if "trained" in item.fixturenames]
    names = [spec.params["name"] for spec in asked if spec is not None]
    folders = [top / name.replace("/", " ") for name in names]
    runs = [arguments(folder, materials, name) for folder, name in zip(folders, names)]
    (top / "runs.json").write_text(json.dumps(runs))
    command = [sys.executable, str(Path(__file__).with_name("work_configs.py")), str(top / "runs.json")]
    done = subprocess.run(command, cwd=top, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    wrongs = json.loads((top / "runs.json").read_text())
    return dict(zip(names, zip(wrongs, folders)))


def arguments(folder: Path, materials: Path, name: str) -> List[str]:
    """A command line: the file, and what makes the job small."""
    (folder / "model").mkdir(parents=True)
    (folder / "model/config.json").write_text(json.dumps(shrunk(known_config(model_of(name)))))
    changes = {
        "model_name_or_path": folder / "model",
        "tokenizer_name_or_path": materials / "tokenizer",
        "input_dir": materials / "data",
        "data_cache": folder / "cache",
        "output_dir": folder / "out",
        "split": "8,1,1",
        "max_seq_length": 16,
        "max_steps": 2,
        "logging_steps": 1,
        "eval_iters": 1,
        "test_iters": 1,
        "continue_training": "false",
        "device": "cpu",
        "report_to": "none",
        **dict.fromkeys(("tensor_parallel_degree", "pipeline_parallel_degree", "sharding_parallel_degree"), 1),
        "expert_parallel_degree": 1,
        "gradient_accumulation_steps": 2,
        "num_hidden_layers": 2,
    }
    return [str(CONFIG / name), *(word for key, value in changes.items() for word in (f"--{key}", str(value)))]


@pytest.mark.parametrize("name", TRAINED)
def test_a_tiny_model_trains_with_the_file(trained, name):
    wrong, folder = trained[name]
    assert wrong is None, wrong
    lines = [json.loads(line) for line in (folder / "out/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 2 and all(math.isfinite(loss) for loss in losses)
    started = json.loads((folder / "model/config.json").read_text())
    saved = json.loads((folder / "out/config.json").read_text())
    assert saved["model_type"] == started["model_type"] and saved["vocab_size"] == 256
