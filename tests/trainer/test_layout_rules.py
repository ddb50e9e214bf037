"""Arguments of the parallel layouts: which go together, what they come to, and what the log says about them."""

from __future__ import annotations

import pytest

from paddlenlp.parallel.mesh import Mesh
from paddlenlp.trainer import rules
from paddlenlp.trainer.argparser import PdArgumentParser
from paddlenlp.trainer.layout_rules import LAYOUT_REMARKS, LAYOUT_RULES
from paddlenlp.trainer.options import OPTION_WORDS
from paddlenlp.trainer.pretraining_args import DataArguments, ModelArguments, PreTrainingArguments
from paddlenlp.utils.errors import UsageError

CLASSES = (ModelArguments, DataArguments, PreTrainingArguments)
BASE = {"input_dir": "data", "output_dir": "out", "do_train": True, "max_steps": 10}


@pytest.fixture
def parsed(monkeypatch):
    """parsed(world, **arguments) -> (training arguments, notes), as a process of a job of `world`."""

    def parse(world=1, **given):
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", str(world))
        parser = PdArgumentParser(CLASSES)
        return parser.parse_dict({**BASE, **given})[-1], parser.notes

    return parse


BROKEN = [
    (2, {"device": "gpu:1"}, 'device "gpu:1" is one GPU for 2 processes; write "gpu"'),
    (2, {"sharding": "offload"}, 'name the stage too, as in "stage2 offload"'),
    (2, {"sharding": "stage4"}, 'sharding: unknown word "stage4"; write stage1, stage2 or stage3'),
    (2, {"sharding": "stage1 stage2"}, "names 2 stages; write one of them"),
    (1, {"sharding_comm_buffer_size_MB": 0}, "sharding_comm_buffer_size_MB 0 holds nothing"),
    (1, {"virtual_pp_degree": 0}, "virtual_pp_degree 0 is not a number of chunks"),
    (1, {"virtual_pp_degree": 2}, "virtual_pp_degree 2 interleaves the layers of a pipeline, and there is none"),
    (
        2,
        {"virtual_pp_degree": 2, "pipeline_parallel_degree": 2, "gradient_accumulation_steps": 3},
        "gradient_accumulation_steps 3 must be a multiple of it",
    ),
    (
        2,
        {"sep_parallel_degree": 2, "max_seq_length": 9},
        "max_seq_length 9 must be a multiple of sep_",
    ),
    (2, {"context_parallel_degree": 2, "max_seq_length": 18}, "must be a multiple of twice context_parallel_degree 2"),
    (
        4,
        {"sequence_parallel": True, "tensor_parallel_degree": 4, "max_seq_length": 18},
        "max_seq_length 18 must be a multiple of tensor_parallel_degree 4",
    ),
    (
        8,
        {"sequence_parallel": True, "tensor_parallel_degree": 4, "sep_parallel_degree": 2, "max_seq_length": 12},
        "multiple of tensor_parallel_degree 4 x sep_parallel_degree 2",
    ),
    (1, {"expert_min_capacity": 8, "expert_max_capacity": 4}, "expert_min_capacity 8 is above expert_max_capacity 4"),
    (1, {"tensor_parallel_degree": 2}, "tensor_parallel_degree 2 asked for, and this is one process"),
    (8, {"tensor_parallel_degree": 3}, "8 is not a multiple of 3"),
    (1, {"hybrid_parallel_topo_order": "tp_first"}, "must be one of pp_first, sharding_first"),
]


@pytest.mark.parametrize(("world", "given", "expected"), BROKEN, ids=lambda value: str(value)[:60])
def test_a_broken_rule_is_the_one_problem_reported(parsed, world, given, expected):
    with pytest.raises(UsageError) as caught:
        parsed(world, **given)
    (line,) = str(caught.value).splitlines()[1:-1]
    assert expected in line and line.strip().startswith("dictionary: ")


def test_every_rule_is_broken_above(monkeypatch):
    seen = set()
    for world, given, _ in BROKEN:
        monkeypatch.setenv("PADDLE_TRAINERS_NUM", str(world))
        values = {**BASE, **given}
        view = rules.View(
            [cls(**{name: values[name] for name in values if name in cls.__dataclass_fields__}) for cls in CLASSES]
        )
        seen |= {number for number, rule in enumerate(LAYOUT_RULES) if rule.applies(view)}
    assert seen == set(range(len(LAYOUT_RULES)))


def test_all_that_is_wrong_is_in_one_report(parsed):
    with pytest.raises(UsageError) as caught:
        parsed(8, tensor_parallel_degree=3, sharding="offload", virtual_pp_degree=2, max_steps=None)
    for words in ("not a multiple of 3", "name the stage too", "virtual_pp_degree 2", "max_steps must be set"):
        assert words in str(caught.value)


def test_a_degree_of_the_wrong_type_is_reported_alone(parsed):
    with pytest.raises(UsageError) as caught:
        parsed(8, tensor_parallel_degree="3")
    assert len(str(caught.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("world", "given", "mesh"),
    [
        (1, {}, Mesh()),
        (1, {"sharding": "stage2", "tensor_parallel_degree": 1}, Mesh()),
        (2, {}, Mesh(dp=2)),
        (
            8,
            {"sharding": "stage1", "tensor_parallel_degree": 2, "pipeline_parallel_degree": 2},
            Mesh(pp=2, sharding=2, tp=2),
        ),
        (
            8,
            {"sharding": "stage3", "sharding_parallel_degree": 2, "sep_parallel_degree": 2},
            Mesh(dp=2, sharding=2, sep=2),
        ),
        (4, {"hybrid_parallel_topo_order": "sharding_first"}, Mesh(dp=4, order="sharding_first")),
        (4, {"use_expert_parallel": True}, Mesh(dp=4, ep=4)),
        (4, {"context_parallel_degree": 2, "expert_parallel_degree": 2}, Mesh(dp=2, cp=2, ep=2)),
        (
            4,
            {"virtual_pp_degree": 2, "pipeline_parallel_degree": 2, "gradient_accumulation_steps": 4},
            Mesh(dp=2, pp=2),
        ),
    ],
)
def test_layouts_that_fit(parsed, world, given, mesh):
    assert parsed(world, **given)[0].mesh == mesh


def test_shares_of_a_batch_go_to_data_and_sharding_ranks(parsed, monkeypatch):
    """Ranks of the other axes read the same samples."""
    layout = {"sharding": "stage1", "sharding_parallel_degree": 2, "tensor_parallel_degree": 2}
    layout = {**layout, "pipeline_parallel_degree": 2, "gradient_accumulation_steps": 2}
    for order in ("pp_first", "sharding_first"):
        args, _ = parsed(16, **layout, hybrid_parallel_topo_order=order)
        assert (args.dataset_world_size, args.samples_per_step) == (4, 64)
        shares = []
        for rank in range(16):
            monkeypatch.setenv("PADDLE_TRAINER_ID", str(rank))
            place = args.mesh.place(rank)
            assert args.dataset_rank == 2 * place["dp"] + place["sharding"]
            shares.append(args.dataset_rank)
        assert sorted(shares) == sorted([0, 1, 2, 3] * 4)


@pytest.mark.parametrize(
    ("written", "world", "stage", "offload"),
    [
        ("", 2, 0, False),
        ("stage1", 2, 1, False),
        ("stage2", 2, 2, False),
        ("stage3 offload", 2, 3, True),
        ("offload,stage2", 2, 2, True),
        (True, 2, 1, False),
        ("True", 2, 1, False),
        (False, 2, 0, False),
        ("stage3 offload", 1, 0, False),
    ],
)
def test_sharding(parsed, written, world, stage, offload):
    args, _ = parsed(world, sharding=written)
    assert (args.sharding_stage, args.sharding_offload) == (stage, offload)
    assert args.mesh.sharding == (world if stage else 1)


def test_values_that_follow(parsed):
    plain = parsed()[0]
    assert plain.bucket_bytes == 32 * 2**20 and plain.partial_send_recv and not plain.times_phases
    assert plain.pipeline_chunks == 1
    words = "disable_partial_send_recv,enable_timer"
    other = parsed(sharding_comm_buffer_size_MB=4, pipeline_parallel_config=words, virtual_pp_degree=-1)[0]
    assert other.bucket_bytes == 4 * 2**20 and not other.partial_send_recv and other.times_phases
    assert other.pipeline_chunks == 1
    assert parsed(skip_profile_timer=False)[0].times_phases


REMARKABLE = [
    (1, {"sequence_parallel": True}, "sequence_parallel changes nothing"),
    (1, {"sharding": "stage2"}, "sharding stage2 changes nothing: its shares would go to one process (1 process)"),
    (2, {"sharding": "stage2", "tensor_parallel_degree": 2}, "to one process (2 processes = dp 1 x tp 2)"),
    (2, {"pipeline_parallel_degree": 2}, "gradient_accumulation_steps 1 is below pipeline_parallel_degree 2"),
]


@pytest.mark.parametrize(("world", "given", "expected"), REMARKABLE, ids=lambda value: str(value)[:60])
def test_remarks(parsed, world, given, expected):
    (note,) = parsed(world, **given)[1]
    assert expected in note


def test_there_is_a_test_for_every_remark():
    assert len(REMARKABLE) == len(LAYOUT_REMARKS) + 1


def test_a_plain_layout_has_nothing_to_remark(parsed):
    layout = {"sharding": "stage1", "tensor_parallel_degree": 2, "sequence_parallel": True}
    assert parsed(8, **layout, pipeline_parallel_degree=2, gradient_accumulation_steps=2)[1] == []


PARALLEL_WORDS = [
    (argument, name)
    for argument, words in OPTION_WORDS.items()
    if argument != "unified_checkpoint_config"
    for name in words
]
ACTING = {"disable_partial_send_recv", "enable_timer"}


@pytest.mark.parametrize(("argument", "name"), PARALLEL_WORDS)
def test_every_option_word_is_answered_once(parsed, argument, name):
    """One line in the log, an error, or (the two that act) nothing to say."""
    word = OPTION_WORDS[argument][name]
    if word.refused:
        with pytest.raises(UsageError, match="is not available"):
            parsed(**{argument: name})
        return
    notes = parsed(**{argument: name})[1]
    assert notes == ([] if name in ACTING else [f'{argument} (dictionary): "{name}" changes nothing: {word.always}.'])


def test_the_reference_s_words_are_all_known():
    """reference/paddlenlp.md, section 2.2."""
    wanted = {
        "pipeline_parallel_config": "disable_p2p_cache_shape disable_partial_send_recv enable_delay_scale_loss "
        "enable_dp_comm_overlap enable_sharding_comm_overlap enable_timer enable_release_grads "
        "enable_clear_every_step_cache enable_overlap_p2p_comm disable_batch_p2p_comm best_unbalanced_scheduler "
        "use_dualpipev enable_send_recv_overlap enable_split_backward",
        "tensor_parallel_config": "enable_mp_async_allreduce enable_mp_skip_c_identity "
        "enable_mp_fused_linear_param_grad_add enable_sp_async_reduce_scatter enable_delay_scale_loss sync_param "
        "sync_grad sync_moment replace_with_c_embedding replace_with_parallel_cross_entropy",
        "sharding_parallel_config": "enable_stage1_tensor_fusion enable_stage1_overlap enable_stage2_overlap "
        "split_param disable_stage1_reduce_avg enable_stage1_broadcast_overlap enable_stage1_allgather_overlap "
        "enable_release_grads enable_fuse_optimizer_states enable_tensor_fusion enable_overlap",
        "data_parallel_config": "enable_allreduce_avg_in_gradinent_scale gradient_sync_after_accumulate",
        "sequence_parallel_config": "enable_allreduce_avg_in_gradinent_scale",
    }
    assert {argument: set(words.split()) for argument, words in wanted.items()} == {
        argument: set(words) for argument, words in OPTION_WORDS.items() if argument != "unified_checkpoint_config"
    }
