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

from paddlenlp.planning.hardware import hardware
from paddlenlp.trainer import DataArguments, ModelArguments, PdArgumentParser, PreTrainingArguments
from paddlenlp.trainer.forecast import forecast
from paddlenlp.trainer.model_fit import check_model_fits
from paddlenlp.trainer.shrink import shrunk
from paddlenlp.transformers import AutoConfig
from paddlenlp.transformers.auto.families import FAMILIES
from paddlenlp.transformers.known_models import known_config

CONFIG = ROOT / "llm/config"
FILES = sorted(str(path.relative_to(CONFIG)) for path in CONFIG.glob("*/*.json") if "tiny" not in path.name)
TP2, SD8 = "tp2sd4_stage2", "sd8_stage2"
MEASURED = {
    f"llama/pretrain-flagalpha_llama2_13b-{TP2}.json": ("FlagAlpha/Llama2-Chinese-13b-Chat", 1, 16),
    f"llama/pretrain-flagalpha_llama2_7b-{TP2}.json": ("FlagAlpha/Llama2-Chinese-7b-Chat", 2, 8),
    f"baichuan/pretrain-baichuan2_13b-{SD8}.json": ("baichuan-inc/Baichuan2-13B-Base", 1, 8),
    f"baichuan/pretrain-baichuan2_7b-{TP2}.json": ("baichuan-inc/Baichuan2-7B-Base", 2, 8),
    f"llama/pretrain-llama_13b-{TP2}.json": ("facebook/llama-13b", 1, 16),
    f"llama/pretrain-llama_7b-{TP2}.json": ("facebook/llama-7b", 2, 8),
    f"llama/pretrain-ziya_llama_13b-{TP2}.json": ("idea-ccnl/ziya-llama-13b-v1", 1, 16),
    f"llama/pretrain-linly_llama2_7b-{TP2}.json": ("linly-ai/chinese-llama-2-7b", 2, 8),
    f"llama/pretrain-llama2_13b-{TP2}.json": ("meta-llama/Llama-2-13b", 1, 16),
    f"llama/pretrain-llama2_7b-{TP2}.json": ("meta-llama/Llama-2-7b", 2, 8),
    f"qwen/pretrain-qwen_7b-{TP2}.json": ("qwen/qwen-7b", 2, 8),
}
"""The runs of the performance table: file -> model, micro batch, accumulation."""
SIZED = [name for name in FILES if "/pretrain-" in name and name not in MEASURED]
TRAINED = [
    name for name in FILES if name.endswith(("/pretrain_argument.json", "_0p5b.json", "qwen_7b-tp2sd4_stage2.json"))
]
UNKNOWN = ("linly-ai/chinese-llama-2-7b",)
"""Models that are not built in: their config.json is read from the hub."""

FEW_WORDS: Dict[str, Any] = {
    "mask_token_id": 4,
    "gmask_token_id": 5,
    "bos_token_id": 6,
    "eos_token_id": 2,
    "pad_token_id": 0,
    **dict.fromkeys(("vocab_size", "padded_vocab_size"), 256),
    **dict.fromkeys(("max_position_embeddings", "seq_length", "model_max_length", "max_sequence_length"), 64),
}
"""What a tiny model has for the tests' tokenizer; a configuration takes those that it has."""


def parsed(name: str) -> List[Any]:
    parser = PdArgumentParser((ModelArguments, DataArguments, PreTrainingArguments))
    return list(parser.parse([str(CONFIG / name)]))


def tiny(values: Dict[str, Any]) -> Dict[str, Any]:
    """The configuration of a tiny model of the same kind, with few words."""
    return {name: FEW_WORDS.get(name, value) for name, value in shrunk(values).items()}


@pytest.fixture
def job(tmp_path, monkeypatch):
    """job(name): as if this were one process of the job that a file is for, in a folder with data in it."""

    def join(name: str) -> None:
        (tmp_path / "data").mkdir()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", str(processes(name)))

    return join


def model_of(name: str) -> str:
    return json.loads((CONFIG / name).read_text())["model_name_or_path"]


def test_every_family_has_a_file_that_is_tried():
    found = {type(AutoConfig.from_pretrained(model_of(name))) for name in TRAINED}
    assert found == {family.config_class() for family in FAMILIES}


def processes(name: str) -> int:
    """How many a file is for: as many as its degrees need, and a machine of 8 at least."""
    values = json.loads((CONFIG / name).read_text())
    names = ("tensor", "pipeline", "sharding", "context")
    return max(8, math.prod(max(1, values.get(f"{axis}_parallel_degree", 1)) for axis in names))


@pytest.mark.parametrize("name", MEASURED)
def test_the_runs_of_the_performance_table_are_there(job, name):
    job(name)
    model_args, data_args, args = parsed(name)
    tp, sharding = (1, 8) if "sd8" in name else (2, 4)
    batch = (args.per_device_train_batch_size, args.gradient_accumulation_steps)
    assert (model_args.model_name_or_path, *batch) == MEASURED[name]
    assert (args.mesh.tp, args.mesh.sharding, args.mesh.world, args.sharding) == (tp, sharding, 8, "stage2")
    assert (args.samples_per_step, data_args.max_seq_length) == (64, 4096)
    assert args.bf16 and args.fp16_opt_level == "O2" and not args.amp_master_grad and not args.sequence_parallel
    assert args.use_flash_attention == args.use_fused_rope == "true" and args.distributed_dataloader
    assert args.recompute == ("sd8" in name) and args.recompute_granularity == "full"
    assert args.use_fused_rms_norm == ("false" if "llama2_7b-tp" in name and "meta" in MEASURED[name][0] else "true")


@pytest.mark.parametrize("name", FILES)
def test_a_file_parses_and_its_model_is_planned(job, name):
    job(name)
    model_args, data_args, args = parsed(name)
    assert args.world_size == processes(name)
    if model_args.model_name_or_path not in UNKNOWN:
        config = AutoConfig.from_pretrained(model_args.model_name_or_path)
        check_model_fits(config, args)
        found = forecast(config, args, data_args.max_seq_length, hardware("a100-80g"))
        assert found.memory.needed > 0 and 0.05 < found.time.mfu < 0.7
        assert found.fits or name not in SIZED  # the others are examples of the reference's for other machines


def test_the_files_of_sizes_say_their_layout():
    for name in SIZED:
        values = json.loads((CONFIG / name).read_text())
        degrees = [("tp", "tensor"), ("pp", "pipeline"), ("cp", "context"), ("sd", "sharding"), ("ep", "expert")]
        told = [f"{word}{values.get(f'{axis}_parallel_degree', 1)}" for word, axis in degrees]
        layout = "".join(word for word in told if word[2:] != "1") + f"_{values['sharding']}" * bool(values["sharding"])
        assert name.endswith(f"-{layout}.json") and values["output_dir"].endswith(layout)


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
    (folder / "model/config.json").write_text(json.dumps(tiny(known_config(model_of(name)))))
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
