"""What tokenizer classes imply and their files do not say, as data."""

from __future__ import annotations

from dataclasses import dataclass, field
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
        rank_tokens: special tokens whose ids follow the last rank of a tiktoken file.
    """

    names: Tuple[str, ...] = ()
    model_types: Tuple[str, ...] = ()
    special: Dict[str, str] = field(default_factory=dict)
    add_bos: bool = False
    pattern: str = GPT2_PATTERN
    normalize: str = ""
    rank_tokens: Tuple[str, ...] = ()


def _llama3_tokens() -> Tuple[str, ...]:
    first = ["begin_of_text", "end_of_text", "reserved_special_token_0", "reserved_special_token_1"]
    second = ["finetune_right_pad_id", "step_id", "start_header_id", "end_header_id", "eom_id", "eot_id", "python_tag"]
    named = [*first, *second, "image"]
    reserved = [f"reserved_special_token_{index}" for index in range(2, 2 + 256 - len(named))]
    return tuple(f"<|{name}|>" for name in named + reserved)


_END = "<|endoftext|>"
PLAIN = Family()
LLAMA = Family(
    ("LlamaTokenizer",),
    ("llama", "mistral", "mixtral"),
    {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
    add_bos=True,
)
LLAMA3 = Family(
    ("Llama3Tokenizer",),
    (),
    {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>"},
    add_bos=True,
    pattern=LLAMA3_PATTERN,
    rank_tokens=_llama3_tokens(),
)
QWEN = Family(
    ("QWenTokenizer", "QwenTokenizer"),
    ("qwen",),
    {"eos_token": _END, "pad_token": _END},
    pattern=QWEN_PATTERN,
    normalize="NFC",
    rank_tokens=(_END, "<|im_start|>", "<|im_end|>", *(f"<|extra_{index}|>" for index in range(205))),
)
QWEN2 = Family(
    ("Qwen2Tokenizer",),
    ("qwen2", "qwen2_moe"),
    {"eos_token": _END, "pad_token": _END, "unk_token": _END},
    pattern=QWEN_PATTERN,
    normalize="NFC",
)
GPT = Family(("GPTTokenizer", "GPT2Tokenizer"), ("gpt", "gpt2"), {role: _END for role in ("bos_token", "eos_token")})
FAMILIES = (LLAMA, LLAMA3, QWEN, QWEN2, GPT)


def find_family(tokenizer_class: Optional[str], model_type: Optional[str], has_ranks: bool, file_name: str) -> Family:
    """The family of a tokenizer: by its class, by its model, or by the file for a file of ranks (tiktoken)."""
    name = (tokenizer_class or "").removesuffix("Fast")
    named = [family for family in FAMILIES if name in family.names]
    typed = [family for family in FAMILIES if model_type in family.model_types]
    fitting = [family for family in named + typed if family.rank_tokens or not has_ranks]
    if fitting:
        return fitting[0]
    return (QWEN if "qwen" in file_name.lower() else LLAMA3) if has_ranks else PLAIN
