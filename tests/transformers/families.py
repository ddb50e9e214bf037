"""The table of the families: one row for each family, or variant of one that computes in another way.

What is tested of every family takes its rows from here: `test_families.py` and `test_stored_forms.py` the fixtures,
`test_initial_values.py` and `tests/parallel/capabilities.py` the tiny models.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Tuple

VOCAB = 64
"""Size of the vocabulary of the tiny models: that of the batches in tests/parallel/layouts.py."""


class Row(NamedTuple):
    """A family or a variant of one.

    Attributes:
        name: of the row in the table of the documents.
        prefix: first part of its class names in `paddlenlp.transformers`.
        config: of a tiny model, whose weights and tokens are easily told apart: its deviation is large.
        folder, variants: its fixtures, tests/fixtures/<folder>/<variant>.
        closing: the matrices that write to the residual stream, by their attribute names.
        scaled: whether they start smaller, by 1 / sqrt(2 layers).
        fuses: which matrices the options fuse_attention_<...> fuse.
        experts: whether it has experts to deal out.
    """

    name: str
    prefix: str
    config: Dict[str, Any]
    folder: str
    variants: Tuple[str, ...]
    closing: Tuple[str, str] = ("o_proj", "down_proj")
    scaled: bool = True
    fuses: Tuple[str, ...] = ()
    experts: bool = False


_SIZES: Dict[str, Any] = dict(
    vocab_size=VOCAB,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    max_position_embeddings=64,
    initializer_range=0.1,
)
_GROUPED: Dict[str, Any] = dict(_SIZES, num_key_value_heads=2)
_UNDROPPED: Dict[str, Any] = dict(_SIZES, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
_LATENT: Dict[str, Any] = dict(
    _SIZES,
    kv_lora_rank=8,
    qk_nope_head_dim=6,
    qk_rope_head_dim=4,
    v_head_dim=5,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_shared_experts=1,
    moe_intermediate_size=8,
    first_k_dense_replace=1,
    aux_loss_alpha=0.01,
)
_DEEPSEEK_V3: Dict[str, Any] = dict(
    _LATENT,
    q_lora_rank=6,
    n_group=2,
    topk_group=1,
    bias_update_speed=0.01,
    num_nextn_predict_lambda=0.3,
    rope_scaling=dict(rope_type="yarn", factor=4, mscale_all_dim=1.0, original_max_position_embeddings=8),
)
_QWEN2_MOE: Dict[str, Any] = dict(
    _GROUPED,
    num_experts=4,
    num_experts_per_tok=2,
    moe_intermediate_size=8,
    shared_expert_intermediate_size=12,
    decoder_sparse_step=2,
    output_router_logits=True,
    router_aux_loss_coef=0.01,
)
# Half of the rows of the layout tests have a token 7, which begins the text after a context.
_CHATGLM: Dict[str, Any] = dict(
    vocab_size=VOCAB,
    hidden_size=16,
    inner_hidden_size=24,
    num_layers=2,
    num_attention_heads=4,
    bos_token_id=7,
    mask_token_id=4,
    gmask_token_id=8,
    initializer_range=0.1,
)
_CHATGLM2: Dict[str, Any] = dict(
    vocab_size=VOCAB,
    hidden_size=16,
    ffn_hidden_size=24,
    num_layers=2,
    num_attention_heads=4,
    kv_channels=8,
    multi_query_group_num=2,
    add_qkv_bias=True,
    initializer_range=0.1,
)
_BLOOM: Dict[str, Any] = dict(
    vocab_size=VOCAB, hidden_size=16, n_layer=2, n_head=4, seq_length=64, initializer_range=0.1
)
_ROTARY = ("biased", "dynamic", "grouped", "linear", "llama3", "plain", "tied")
_BOTH = ("qkv", "ffn")
_DENSE = ("dense", "dense_4h_to_h")

ROWS: List[Row] = [
    Row("LLaMA", "Llama", _GROUPED, "llama", _ROTARY, fuses=_BOTH),
    Row(
        "Qwen2",
        "Qwen2",
        dict(_GROUPED, tie_word_embeddings=True),
        "qwen2",
        ("grouped", "longrope", "tied", "window", "yarn"),
        fuses=_BOTH,
    ),
    Row(
        "Qwen2-MoE",
        "Qwen2Moe",
        _QWEN2_MOE,
        "qwen2_moe",
        ("balanced", "plain", "steps"),
        fuses=_BOTH,
        experts=True,
    ),
    Row("Mistral", "Mistral", dict(_GROUPED, sliding_window=5), "mistral", ("plain", "window"), fuses=_BOTH),
    Row(
        "Mixtral",
        "Mixtral",
        dict(_GROUPED, num_local_experts=4, num_experts_per_tok=2),
        "mixtral",
        ("balanced", "plain", "window"),
        closing=("o_proj", "w2"),
        fuses=("qkv",),
        experts=True,
    ),
    Row(
        "DeepSeek-V2",
        "DeepseekV2",
        dict(_LATENT, q_lora_rank=None),
        "deepseek_v2",
        ("grouped", "lite", "yarn"),
        scaled=False,
        fuses=("ffn",),
        experts=True,
    ),
    Row(
        "DeepSeek-V3",
        "DeepseekV3",
        _DEEPSEEK_V3,
        "deepseek_v3",
        ("ahead", "grouped", "lite"),
        scaled=False,
        fuses=("ffn",),
        experts=True,
    ),
    Row("Gemma", "Gemma", dict(_GROUPED, head_dim=6), "gemma", ("biased", "plain"), fuses=_BOTH),
    Row(
        "Qwen",
        "QWen",
        dict(_SIZES, intermediate_size=48, head_dim=4),
        "qwen",
        ("long", "plain"),
        closing=("c_proj", "c_proj"),
        fuses=("ffn",),
    ),
    Row("Baichuan", "Baichuan", _SIZES, "baichuan", ("rotary", "rotary_2"), fuses=("ffn",)),
    Row(
        "Baichuan2-13B",
        "Baichuan",
        dict(_SIZES, alibi=True, normalised_head=True),
        "baichuan",
        ("alibi", "alibi_2"),
        fuses=("ffn",),
    ),
    Row("Yuan2", "Yuan", dict(_SIZES, tie_word_embeddings=True), "yuan", ("odd", "plain"), fuses=("ffn",)),
    Row("Bloom", "Bloom", _BLOOM, "bloom", ("odd", "plain"), closing=_DENSE),
    Row("GPT-3", "GPT", _UNDROPPED, "gpt2", ("odd", "plain"), closing=("c_proj", "c_proj")),
    Row("OPT", "OPT", _UNDROPPED, "opt", ("plain",), closing=("out_proj", "fc2"), fuses=("qkv",)),
    Row(
        "OPT-350m",
        "OPT",
        dict(_UNDROPPED, normalize_before=False, word_embed_proj_dim=12),
        "opt",
        ("projected",),
        closing=("out_proj", "fc2"),
        fuses=("qkv",),
    ),
    Row("ChatGLM", "ChatGLM", _CHATGLM, "chatglm", ("line", "plain"), closing=_DENSE),
    Row("ChatGLM2", "ChatGLMv2", _CHATGLM2, "chatglm_v2", ("grouped", "odd"), closing=_DENSE),
    Row("GLM-130B", "GLM130B", _CHATGLM, "glm_130b", ("plain",), closing=_DENSE),
]
"""The rows, in the order of the documents' table."""

CASES = [f"{row.folder}/{variant}" for row in ROWS for variant in row.variants]
"""The folders of the fixtures."""
