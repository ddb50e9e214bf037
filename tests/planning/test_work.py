"""What stages are said to compute is what the real models say of themselves."""

from __future__ import annotations

import pytest
from families import ROWS
from layouts import LENGTH, MODELS

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.planning.abstract import abstract_model
from paddlenlp.planning.layout import Layout
from paddlenlp.planning.speed import dealt
from paddlenlp.planning.stage_times import tensor_bytes
from paddlenlp.planning.work import model_work
from paddlenlp.transformers.auto.configuration import AutoConfig
from paddlenlp.transformers.auto.families import FAMILIES
from paddlenlp.transformers.auto.modeling import AutoModelForCausalLM
from paddlenlp.transformers.known_models import known_names

BYTES = 4
KNOWN = ("meta-llama/Meta-Llama-3.1-405B", "deepseek-ai/DeepSeek-V3", "qwen/qwen-7b", "IEITYuan/Yuan2-2B")


def config_of(prefix, values):
    family = next(family for family in FAMILIES if family.prefix == prefix)
    return family.config_class()(**values)


def wire(model, **changes):
    work = model_work(config_of(model.name, model.config))
    layout = Layout(Mesh(tp=2), seq_length=LENGTH, dtype="float32", compute="float32", **changes)
    found = [tensor_bytes(stage, layout) for stage in work.stages]
    return work, sum(forward for forward, _ in found), sum(backward for _, backward in found)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_operations_and_parameters_of_every_family(row):
    config = config_of(row.prefix, row.config)
    work, model = model_work(config), AutoModelForCausalLM.from_config(config)
    assert work.parameters == model.num_parameters()
    for length in (16, 4096):
        assert work.flops_per_token(length) == pytest.approx(model.flops_per_token(length), rel=1e-12)


@pytest.mark.parametrize("name", KNOWN)
def test_sizes_of_released_models(name):
    """In 10^9, from the models' own reports: all parameters, and those that work on a token."""
    sizes = {KNOWN[0]: (405.9, 403.7), KNOWN[1]: (671.0, 36.6), KNOWN[2]: (7.72, 7.10), KNOWN[3]: (2.09, 2.08)}
    work = model_work(AutoConfig.from_pretrained(name))
    assert (work.parameters / 1e9, work.multiplied / 1e9) == pytest.approx(sizes[name], rel=0.01)
    assert name in known_names()


def test_experts_are_counted_as_often_as_they_work():
    """DeepSeek-V3: 8 of 256, beside one that is shared."""
    layer = model_work(AutoConfig.from_pretrained("deepseek-ai/DeepSeek-V3")).stages[-3]
    experts = [matrix for matrix in layer.matrices if matrix.copies > 1]
    assert [(matrix.copies, matrix.copies * matrix.share) for matrix in experts] == [(256, 8.0)] * 3
    assert layer.elements(tp=2, ep=64) == pytest.approx((256 / 64 * 3 * 7168 * 2048 / 2, layer.elements(2, 1)[1]))


def test_shares_are_those_of_the_parameters():
    """Key heads fewer than ranks are copied, not cut."""
    layer = model_work(AutoConfig.from_pretrained("meta-llama/Meta-Llama-3-70B")).stages[1]
    query, key = layer.matrices[:2]
    assert (query.own(16), key.own(8), key.own(16)) == ((8192, 512), (8192, 128), (8192, 128))


@pytest.mark.parametrize("name", MODELS)
def test_stages_are_dealt_out_as_the_model_does(name):
    config = config_of(MODELS[name].name, MODELS[name].config)
    work, family = model_work(config), AutoModelForCausalLM.model_class(config)
    for ranks, chunks in ((1, 1), (2, 1), (2, 2), (4, 1)):
        parts = family.deal_out(config, work.names, ranks * chunks)
        ours = dealt(work, Layout(Mesh(pp=ranks), chunks=chunks))
        assert ours == [[place for part in parts[rank::ranks] for place in part] for rank in range(ranks)]


def test_bytes_between_tensor_parallel_ranks():
    """Those that the ranks count in tests/parallel/test_wire.py: of their inputs, all-reduces 4 layers + 2; under
    sequence parallelism reduce-scatters as many, and gathers 6 layers + 2 of half the size. Of an all-reduce each of
    two ranks sends its input once; of the others a half of the whole."""
    model = MODELS["grouped heads"]
    row = LENGTH * model.config["hidden_size"] * BYTES
    work, forward, backward = wire(model)
    layers = sum(stage.kind == "layer" for stage in work.stages)
    assert forward + backward == (4 * layers + 2) * row
    _, forward, backward = wire(model, sequence_parallel=True)
    assert forward + backward == (4 * layers + 2) * row / 2 + (6 * layers + 2) * row / 2


def test_layers_that_do_not_look_at_their_index_are_made_once():
    names = {"meta-llama/Meta-Llama-3.1-405B": True, "deepseek-ai/DeepSeek-V3": False}
    for name, shared in names.items():
        layers = [stage.layer for stage in abstract_model(AutoConfig.from_pretrained(name)).stages if stage.index]
        assert len(layers) > 50 and len({id(layer) for layer in layers}) == (1 if shared else len(layers))
