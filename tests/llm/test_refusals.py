"""Wrong input to run_pretrain.py: one clear error, exit code 2, before Paddle is imported."""

from __future__ import annotations

import json
import os

import pytest

from paddlenlp.utils.files import atomic_write_json


def refused(done, *words):
    """The run ended with one error that has `words`, no traceback, and before Paddle was imported."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr and "Process rank" not in done.stderr
    error = done.stderr[done.stderr.index("error: ") :]
    missing = [word for word in words if word not in error]
    assert not missing, f"{missing} not in:\n{error}"


def test_a_misspelt_flag(pretrain):
    refused(pretrain(learning_rte=1e-3), "learning_rte", "config.json:", 'did you mean "learning_rate"')


def test_several_mistakes_are_reported_at_once(pretrain):
    refused(pretrain(max_steps=3.5, seed="x", save_stps=1), "max_steps", "seed", "save_steps")


def test_a_missing_file(pretrain, tmp_path):
    refused(pretrain(input_dir=str(tmp_path / "nowhere")), "nowhere", "create_pretraining_data.py")
    refused(pretrain(model_name_or_path=str(tmp_path / "nothing")), "nothing")
    refused(pretrain(tokenizer_name_or_path=str(tmp_path / "none")), "none")


def test_a_truncated_bin(pretrain, files):
    path = files / "data/corpus.bin"
    size = path.stat().st_size
    os.truncate(path, size - 10)
    refused(pretrain(), "corpus.bin", f"{size:,}", f"{size - 10:,}")


def test_a_tokenizer_larger_than_the_weights(pretrain, retokenize, tmp_path):
    assert pretrain(max_steps=1).returncode == 0
    retokenize(300)
    done = pretrain(model_name_or_path=str(tmp_path / "out"), continue_training=True, output_dir=str(tmp_path / "b"))
    refused(done, "300", "256", "--tokenizer_name_or_path")


def test_data_with_ids_beyond_the_vocabulary(pretrain, retokenize, files):
    config = json.loads((files / "model/config.json").read_text())
    (files / "model/config.json").write_text(json.dumps({**config, "vocab_size": 128}))
    retokenize(100)
    refused(pretrain(), "corpus holds token id 220 (in document 0 at token 0)", "128")


def test_bounds_of_documents_in_data_without_end_tokens(pretrain):
    refused(pretrain(reset_attention_mask=True), "corpus: none of the first 16 document(s) ends in", "--append_eos")


def test_an_output_dir_that_is_a_file(pretrain, tmp_path):
    (tmp_path / "file").write_text("")
    refused(pretrain(output_dir=str(tmp_path / "file/below")), "output_dir")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_output_dir(pretrain, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    refused(pretrain(output_dir=str(tmp_path / "locked/out")), "output_dir", "locked")


def test_an_empty_split(pretrain):
    refused(pretrain(split="1,0,0"), "split")


def test_a_layout_for_several_processes_on_one(pretrain):
    refused(
        pretrain(tensor_parallel_degree=2, pipeline_parallel_degree=2),
        "config.json:",
        "tensor_parallel_degree 2 x pipeline_parallel_degree 2 = 4 processes asked for, and this is one process",
        "paddle.distributed.launch --nproc_per_node 4",
    )


def test_a_layout_that_does_not_divide_the_processes(pretrain):
    done = pretrain(tensor_parallel_degree=3, environment={"PADDLE_TRAINERS_NUM": "8"})
    refused(done, "8 is not a multiple of 3", "use 1, 2, 4 or 8")


def test_a_model_that_can_t_be_cut_so_fine(pretrain):
    ranks = ",".join(f"127.0.0.1:{port}" for port in range(1, 9))  # nobody is there; nobody is needed
    environment = {"PADDLE_TRAINERS_NUM": "8", "PADDLE_TRAINER_ID": "0", "PADDLE_TRAINER_ENDPOINTS": ranks}
    done = pretrain(tensor_parallel_degree=8, environment=environment)
    refused(done, "num_attention_heads 4 is not a multiple of tensor_parallel_degree = 8", "1, 2 or 4")


def test_a_checkpoint_of_another_shape(pretrain, files, tmp_path):
    assert pretrain(max_steps=3).returncode == 0
    config = json.loads((files / "model/config.json").read_text())
    atomic_write_json(files / "model/config.json", {**config, "intermediate_size": 48})
    done = pretrain()
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "checkpoint-3" in done.stderr and "overwrite_output_dir" in done.stderr
