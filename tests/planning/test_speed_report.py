"""The speed of a plan as text and as JSON."""

from __future__ import annotations

import json

import pytest

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.planning.hardware import hardware
from paddlenlp.planning.layout import Layout
from paddlenlp.planning.search import Found
from paddlenlp.planning.speed import PARTS, step_time
from paddlenlp.planning.speed_report import MEANINGS, amount, as_values, best_table, flags, paragraphs, speed_table
from paddlenlp.planning.work import model_work
from paddlenlp.trainer import PdArgumentParser, PreTrainingArguments
from paddlenlp.transformers.auto.configuration import AutoConfig
from paddlenlp.utils.errors import UsageError

ASKED = Layout(Mesh(sharding=4, tp=2), stage=2, micro_batch=2, accumulation=8, seq_length=4096)


@pytest.fixture(scope="module")
def time():
    return step_time(model_work(AutoConfig.from_pretrained("facebook/llama-7b")), ASKED, hardware("a100-80g"))


def test_amounts():
    texts = {"300000": 3e5, "20M": 2e7, "500B": 5e11, "1.4T": 1.4e12, "7k": 7e3}
    assert {text: amount(text) for text in texts} == texts


@pytest.mark.parametrize("text", ["", "T", "many", "-1B", "0", "nan", "inf"])
def test_what_is_no_amount(text):
    with pytest.raises(UsageError, match="--tokens.*1.4T"):
        amount(text)


def test_parts_are_named_and_add_up(time):
    assert set(MEANINGS) == set(PARTS)
    rows = [line.split() for line in speed_table(time).splitlines()[1:-1]]
    shares = [float(row[-1].rstrip("%")) for row in rows]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(100, abs=0.5)
    assert sum(float(row[-2]) for row in rows) == pytest.approx(time.seconds, abs=0.01)


def test_speed_time_and_cost(time):
    told = "\n".join(paragraphs(time, ASKED, 1e12, 2.0, None))
    assert f"{time.tokens_per_second:,.0f} tokens/s a device" in told and f"MFU {time.mfu:.1%}" in told
    assert f"{time.days(1e12):,.1f} days on 8 devices" in told and f"{time.cost(1e12, 2.0):,.0f} at 2 for" in told
    assert "days" not in "\n".join(paragraphs(time, ASKED, None, 2.0, None))


def test_flags_lead_from_one_layout_to_another(monkeypatch):
    """Parsed again, they give the layout."""
    monkeypatch.setenv("PADDLE_TRAINERS_NUM", "8")
    other = ASKED.with_(mesh=Mesh(pp=2, sharding=2, tp=2), chunks=2, stage=1, sequence_parallel=True, recompute="full")
    start = "--output_dir unused --do_train true --bf16 true --fp16_opt_level O2 --per_device_train_batch_size 2 "
    start += "--gradient_accumulation_steps 8 --tensor_parallel_degree 2"
    words = f"{start} {flags(other, ASKED)}"
    (args,) = PdArgumentParser((PreTrainingArguments,)).parse(words.split(), check_files=False)
    assert Layout.from_args(args, 4096).with_(kernels=other.kernels) == other
    assert flags(ASKED, ASKED) == ""


def test_found_layouts(time):
    other = ASKED.with_(micro_batch=4, accumulation=4)
    found = [Found(ASKED, time, 40 * 2**30), Found(other, time, 50 * 2**30)]
    told = best_table(found, time.seconds * 2, ASKED)
    assert "40.0" in told and "-50%" in told and "1  as asked for" in told
    assert "2  --per_device_train_batch_size 4 --gradient_accumulation_steps 4" in told


def test_values_are_json(time):
    values = json.loads(json.dumps(as_values(time, ASKED, 1e12, 2.0, [Found(ASKED, time, 1.0)])))
    assert values["mfu"] == time.mfu and values["days"] == time.days(1e12)
    assert values["fastest"][0]["flags"] == ""
    assert sum(values["seconds_of_parts"].values()) == pytest.approx(values["seconds_per_step"])
    assert "cost" not in as_values(time, ASKED, None, None, None)
