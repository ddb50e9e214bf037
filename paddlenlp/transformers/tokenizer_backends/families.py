"""What tokenizer classes imply and their files do not say, as data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Dict, Optional, Tuple

_CASED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = _CASED + r"\p{N}{1,3}" + _REST
QWEN_PATTERN = _CASED + r"\p{N}" + _REST


@dataclass(frozen=True)
class Family:
    """Defaults of a family of tokenizers; what a tokenizer's own files say comes first.

    Attributes:
        names: values of `tokenizer_class`, without "Fast" at the end.
        model_types: values of `model_type` in config.json.
        special: role (such as "bos_token") -> token.
        add_bos: whether a beginning is put before each text.
        pattern: regular expression that cuts text into words before byte pairs are merged.
        normalize: Unicode form the text is brought to, "" for none.
        appended: special tokens whose ids follow the last one of the vocabulary file; those that the file has keep
            their ids.
        around: tokens before and after each text, besides the beginning.
        file: name of the vocabulary file, where families share a class.
        ranks: whether a tiktoken file may be of this family.
        corrected: (role, token of the parent family) that files may name although the model was trained with that of
            `special`, which is taken then.
        stand_ins: (piece of text, what stands for it in a SentencePiece file), in the order of replacement.
        inserted: (piece, its type) at the end of a SentencePiece file that lacks the first of them.
        first_id: id of the first piece of a SentencePiece file, where the ids before it are not text;
            `num_image_tokens` in tokenizer_config.json says otherwise.
    """

    names: Tuple[str, ...] = ()
    model_types: Tuple[str, ...] = ()
    special: Dict[str, str] = field(default_factory=dict)
    add_bos: bool = False
    pattern: str = GPT2_PATTERN
    normalize: str = ""
    appended: Tuple[str, ...] = ()
    around: Tuple[Tuple[str, ...], Tuple[str, ...]] = ((), ())
    file: str = ""
    ranks: bool = False
    corrected: Tuple[Tuple[str, str], ...] = ()
    stand_ins: Tuple[Tuple[str, str], ...] = ()
    inserted: Tuple[Tuple[str, int], ...] = ()
    first_id: int = 0


def _llama3_tokens() -> Tuple[str, ...]:
    first = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"]
    second = ["finetune_right_pad_id", "step_id", "start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"]
    named = [*first, *second, "image"]
    reserved = [f"reserved_special_token_{index}" for index in range(2, 2 + 256 - len(named))]
    return tuple(f"<|{name}|>" for name in named + reserved)


_END = "<|endoftext|>"
_LLAMA_ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
PLAIN = Family()
LLAMA = Family(("LlamaTokenizer",), ("llama", "mistral", "mixtral"), _LLAMA_ROLES, add_bos=True)
BAICHUAN = Family(
    ("BaichuanTokenizer", "BaiChuanTokenizer"), ("baichuan",), {**_LLAMA_ROLES, "pad_token": _LLAMA_ROLES["unk_token"]}
)
LLAMA3 = Family(
    ("Llama3Tokenizer",),
    (),
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    add_bos=True,
    pattern=LLAMA3_PATTERN,
    appended=_llama3_tokens(),
    ranks=True,
)
GEMMA = Family(
    ("GemmaTokenizer",),
    ("gemma",),
    {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
    add_bos=True,
)
QWEN = Family(
    ("QWenTokenizer", "QwenTokenizer"),
    ("qwen",),
    {"eos_token": _END, "pad_token": _END},
    pattern=QWEN_PATTERN,
    normalize="NFC",
    appended=(_END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{index}|>" for index in range(205))),
    ranks=True,
)
QWEN2 = Family(
    ("Qwen2Tokenizer",),
    ("qwen2", "qwen2_moe"),
    {"eos_token": _END, "pad_token": _END, "unk_token": _END},
    pattern=QWEN_PATTERN,
    normalize="NFC",
    appended=(_END, "<|im_start|>", "<|im_end|>"),
)
GPT = Family(
    ("GPTTokenizer", "GPT2Tokenizer"),
    ("gpt", "gpt2"),
    {role: _END for role in ("bos_token", "eos_token", "unk_token", "pad_token")},
)
OPT = Family(
    ("GPT2Tokenizer", "GPTTokenizer"),
    ("opt",),
    {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"},
    add_bos=True,
)
BLOOM = Family(
    ("BloomTokenizer",),
    ("bloom",),
    {**_LLAMA_ROLES, "pad_token": "<pad>"},
    pattern=r" ?[^(\s|[.,!?…。，、।۔،])]+",
)
YUAN = Family(
    ("YuanTokenizer", "LlamaTokenizer"),
    ("yuan",),
    {**_LLAMA_ROLES, "eos_token": "<eod>", "pad_token": "<pad>", "sep_token": "<sep>", "mask_token": "<mask>"},
    appended=(
        *("<sep>", "<pad>", "<mask>", "<predict>", "<FIM_SUFFIX>", "<FIM_PREFIX>", "<FIM_MIDDLE>"),
        *("<commit_before>", "<commit_msg>", "<commit_after>"),
        *("<jupyter_start>", "<jupyter_text>", "<jupyter_code>", "<jupyter_output>", "<empty_output>"),
    ),
    corrected=(("eos_token", "</s>"),),
)
CONTROL, USER_DEFINED, BYTE = 3, 4, 6  # types of pieces in SentencePiece's sentencepiece_model.proto
_ICE_SPECIAL = ("[MASK]", "[gMASK]", "[sMASK]", "<unused_0>", "<sop>", "<eop>", "<ENC>", "<dBLOCK>")
_BLANKS = {length: f"<|blank_{length}|>" for length in range(2, 81)}
CHATGLM = Family(
    ("ChatGLMTokenizer",),
    ("chatglm",),
    {"bos_token": "<sop>", "eos_token": "<eop>", "pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "[MASK]"},
    appended=_ICE_SPECIAL,
    around=((), ("[gMASK]", "<sop>")),
    file="ice_text.model",
    stand_ins=(("\n", "<n>"), ("\t", "<|tab|>"), *((" " * n, blank) for n, blank in reversed(_BLANKS.items()))),
    inserted=(
        *((token, CONTROL) for token in _ICE_SPECIAL),
        *((token, USER_DEFINED) for token in ("<|tab|>", *_BLANKS.values())),
        *((f"<0x{byte:02X}>", BYTE) for byte in range(256)),
    ),
)
GLM_130B = replace(CHATGLM, names=("GLM130BTokenizer", "ChatGLMTokenizer"), model_types=("glm_130b",), first_id=20000)
CHATGLM2 = Family(
    ("ChatGLMv2Tokenizer", "ChatGLMTokenizer"),
    ("chatglm", "chatglm_v2"),
    {**_LLAMA_ROLES, "pad_token": _LLAMA_ROLES["unk_token"], "mask_token": "[MASK]"},
    appended=(
        *("[MASK]", "[gMASK]", "[sMASK]", "sop", "eop"),
        *(f"<|{role}|>" for role in ("system", "user", "assistant", "observation")),
    ),
    around=(("[gMASK]", "sop"), ()),
    file="tokenizer.model",
)
FAMILIES = (LLAMA, BAICHUAN, LLAMA3, GEMMA, QWEN, QWEN2, GPT, OPT, BLOOM, YUAN, CHATGLM, GLM_130B, CHATGLM2)


def find_family(tokenizer_class: Optional[str], model_type: Optional[str], has_ranks: bool, file_name: str) -> Family:
    """The family of a tokenizer: by its class and its model, by its class, or by its model; by the file where neither
    says which and the file is one of ranks (tiktoken).

    Args:
        tokenizer_class, model_type: as in tokenizer_config.json and config.json.
        has_ranks: whether the vocabulary is a tiktoken file.
        file_name: name of the vocabulary file.
    """
    name = (tokenizer_class or "").removesuffix("Fast")
    families = [each for each in FAMILIES if each.file in ("", file_name) and (each.ranks or not has_ranks)]
    named = [family for family in families if name in family.names]
    typed = [family for family in families if model_type in family.model_types]
    fitting = [family for family in named if family in typed] + named + typed
    if fitting:
        return fitting[0]
    return (QWEN if "qwen" in file_name.lower() else LLAMA3) if has_ranks else PLAIN
