"""docs/performance.md says what the results of benchmarks/cpu say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks/cpu"))

import common  # noqa: E402
import report  # noqa: E402


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_pages_are_up_to_date(language):
    page = report.PAGES[language].read_text(encoding="utf-8")
    assert report.filled(page, language) == page, "run python benchmarks/cpu/report.py"


def test_both_pages_have_the_same_tables():
    names = [report.TABLE.findall(page.read_text(encoding="utf-8")) for page in report.PAGES.values()]
    assert names[0] == names[1] == ["race-a", "race-b", "race-c", "floors", "ablation-a"]


def test_parameters_are_those_of_the_weights():
    for name, size in common.SHAPES.items():
        if name != "b":  # as large as the others together
            assert report.parameters(size)["all"] == sum(x.size for x in common.make_weights(size).values())


def test_operations_are_those_of_the_model():
    from paddlenlp.transformers import LlamaConfig, LlamaForCausalLM

    size = common.SHAPES["a"]
    model = LlamaForCausalLM.from_config(LlamaConfig(**common.config_of("a")))
    per_step = model.flops_per_token(size["seq"]) * report.tokens(size)
    assert report.flops(size, causal=False) == pytest.approx(per_step, rel=1e-6)
