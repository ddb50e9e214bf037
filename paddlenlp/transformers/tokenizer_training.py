"""Training a byte-level BPE tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Iterable, Sequence, Union

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from paddlenlp.utils.errors import UsageError
from paddlenlp.utils.files import atomic_write_json, atomic_write_text

from .tokenizer_backends.families import LLAMA3_PATTERN
from .tokenizer_backends.fast import byte_level
from .tokenizer_utils import NO_LIMIT, PretrainedTokenizer

PAD, BOS, EOS = "<pad>", "<s>", "</s>"  # ids 0, 1, 2, where LlamaConfig looks for them


def train_byte_level_bpe(
    texts: Iterable[str],
    vocab_size: int,
    *,
    special_tokens: Sequence[str] = (),
    min_frequency: int = 2,
    show_progress: bool = False,
) -> Tokenizer:
    """A byte-level BPE vocabulary of `vocab_size` tokens learned from `texts`; the same texts give the same one.

    Any text can be encoded and is decoded to the same characters. Words are cut as LLaMA 3 cuts them.

    Args:
        special_tokens: further ones after <pad>, <s> and </s>.
        min_frequency: how often a pair must occur to be merged.

    Raises:
        UsageError: `vocab_size` has no room for the 256 bytes and the special tokens.
    """
    special = list(dict.fromkeys([PAD, BOS, EOS, *special_tokens]))
    if vocab_size < 256 + len(special):
        raise UsageError(
            f"vocab_size is {vocab_size}; expected at least {256 + len(special)}: bytes and special tokens"
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level(LLAMA3_PATTERN)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=show_progress,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_trained(tokenizer: Tokenizer, folder: Union[str, Path]) -> PretrainedTokenizer:
    """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json to `folder`; returns what they make."""
    target = Path(folder)
    roles = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    extra = [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items())][len(roles) :]
    shared = {**roles, **({"additional_special_tokens": extra} if extra else {})}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **shared,
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": NO_LIMIT,
    }
    target.mkdir(parents=True, exist_ok=True)
    atomic_write_text(
        target / "tokenizer.json", json.dumps(json.loads(tokenizer.to_str()), ensure_ascii=False, indent=1)
    )
    atomic_write_json(target / "tokenizer_config.json", config)
    atomic_write_json(target / "special_tokens_map.json", shared)
    return PretrainedTokenizer.from_pretrained(target)


__all__ = ["save_trained", "train_byte_level_bpe"]
