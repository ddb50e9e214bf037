"""The kinds of vocabulary files and the libraries that run them; the kind is told from the files that are there."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional

from paddlenlp.utils.errors import UsageError

from .base import AddedToken, Backend
from .families import Family, find_family

SENTENCEPIECE_NAMES = (
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "sentencepiece.model",
    "spiece.model",
    "ice_text.model",
    "cog-pretrain.model",
)
RANK_NAMES = ("qwen.tiktoken", "tiktoken.model")
VOCABULARY_FILES = ("tokenizer.json", *SENTENCEPIECE_NAMES, *RANK_NAMES, "vocab.json", "merges.txt")
OTHER_NAMES = {
    "vocab.json": ("encoder.json", "gpt-en-vocab.json"),
    "merges.txt": ("vocab.bpe", "gpt-en-merges.txt"),
}
"""Names of the same files in the first releases of GPT-2 and of PaddleNLP."""

_FAST = "PreTrainedTokenizerFast"


class OpenVocabulary:
    """The one vocabulary to use among the files of a tokenizer's folder.

    Args:
        files: name -> content, for those of VOCABULARY_FILES that are there.
        options: content of tokenizer_config.json.
        model_type: as in config.json, where the files do not say enough.
        where: the folder, for messages.

    Attributes:
        kind: "tokenizer.json", "tiktoken", "sentencepiece" or "vocab.json".
        family: what the tokenizer's class implies.
        class_name: the value of `tokenizer_class` that finds this family again.
    """

    def __init__(
        self,
        files: Mapping[str, bytes],
        options: Mapping[str, Any],
        model_type: Optional[str],
        where: str,
    ):
        self._files, self._options, self._where = files, options, where
        self.kind, self._name = _kind(files, where)
        self.family = self._family(model_type)
        self.class_name = options.get("tokenizer_class") or _FAST
        if self.kind != "tokenizer.json" and (self.class_name == _FAST or self.family != self._family(None)):
            self.class_name = (*self.family.names, _FAST)[0]

    def _family(self, model_type: Optional[str]) -> Family:
        return find_family(self._options.get("tokenizer_class"), model_type, self.kind == "tiktoken", self._name)

    def backend(self, added: Mapping[int, AddedToken]) -> Backend:
        """The vocabulary with these added tokens.

        Raises:
            UsageError: the files cannot be read, or the library that reads them is not installed.
        """
        try:
            return _OPENERS[self.kind](self, added)
        except ImportError as error:
            raise UsageError(f"{self._where}: reading {self._name} needs `pip install {error.name}`") from None
        except Exception as error:
            # The libraries raise plain Exception and RuntimeError for damaged files.
            raise UsageError(f"{self._where}: {self._name} cannot be read as {self.kind}: {error}") from error

    def _fast(self, added: Mapping[int, AddedToken]) -> Backend:
        from .fast import FastBackend

        return FastBackend.from_json(self._name, self._files[self._name], added)

    def _merges(self, added: Mapping[int, AddedToken]) -> Backend:
        from .fast import FastBackend

        return FastBackend.from_merges({n: self._files[n] for n in ("vocab.json", "merges.txt")}, added, self.family)

    def _ranks(self, added: Mapping[int, AddedToken]) -> Backend:
        from .ranks import RanksBackend

        return RanksBackend(self._name, self._files[self._name], added, self.family)

    def _sentencepiece(self, added: Mapping[int, AddedToken]) -> Backend:
        from .spm import SentencePieceBackend

        legacy = self._options.get("legacy") is not False
        first_id = self._options.get("num_image_tokens", self.family.first_id)
        return SentencePieceBackend(self._name, self._files[self._name], added, self.family, legacy, first_id)


_OPENERS: Dict[str, Callable[[OpenVocabulary, Mapping[int, AddedToken]], Backend]] = {
    "tokenizer.json": OpenVocabulary._fast,
    "tiktoken": OpenVocabulary._ranks,
    "sentencepiece": OpenVocabulary._sentencepiece,
    "vocab.json": OpenVocabulary._merges,
}


def _kind(files: Mapping[str, bytes], where: str) -> tuple[str, str]:
    """Kind and file name of the preferred vocabulary."""
    from .spm import is_sentencepiece

    if "tokenizer.json" in files:
        return "tokenizer.json", "tokenizer.json"
    for name in (*RANK_NAMES, *SENTENCEPIECE_NAMES):
        if name in files:
            return ("sentencepiece" if is_sentencepiece(files[name]) else "tiktoken"), name
    if "vocab.json" in files and "merges.txt" in files:
        return "vocab.json", "vocab.json"
    raise UsageError(
        f"{where}: no tokenizer here. Looked for tokenizer.json; a SentencePiece or tiktoken file named "
        f"{', '.join((*SENTENCEPIECE_NAMES, *RANK_NAMES))}; or vocab.json with merges.txt. {_found(files)}"
    )


def _found(files: Mapping[str, bytes]) -> str:
    names: List[str] = sorted(files)
    return f"Found of these: {', '.join(names)}." if names else "Found none of them."


__all__ = ["OTHER_NAMES", "VOCABULARY_FILES", "AddedToken", "Backend", "OpenVocabulary"]
