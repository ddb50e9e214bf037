"""What a tokenizer needs from a vocabulary and its algorithm, whichever library runs it."""

from __future__ import annotations

import abc
import os
from dataclasses import dataclass
from typing import Dict, FrozenSet, Iterable, List, Optional, Sequence, Tuple


@dataclass(frozen=True)
class AddedToken:
    """A token that is found in the text before the algorithm runs; `special` ones can be left out when decoding."""

    content: str
    special: bool = True
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False


class Backend(abc.ABC):
    """A vocabulary with its algorithm.

    Attributes:
        files: name -> content of the files that define the vocabulary.
        vocab_size: tokens of the vocabulary proper, without added ones.
        size: one more than the largest id.
        affixes: ids that the vocabulary files themselves ask to be put before and after a text.
    """

    files: Dict[str, bytes]
    vocab_size: int
    size: int
    affixes: Tuple[List[int], List[int]] = ([], [])

    @abc.abstractmethod
    def encode_batch(self, texts: Sequence[str], continued: bool = False) -> List[List[int]]:
        """Ids of every text, nothing put around them; with `continued` no mark of a beginning either."""

    @abc.abstractmethod
    def decode(self, ids: Iterable[int], leave_out: FrozenSet[int]) -> str:
        """The text of `ids` without those in `leave_out` and without ids that no token has."""

    @abc.abstractmethod
    def split_special(self) -> None:
        """From now on special and added tokens that stand in a text are read as plain text."""

    @abc.abstractmethod
    def token_to_id(self, token: str) -> Optional[int]:
        """The id of a token as `id_to_token` writes it; None if there is none."""

    @abc.abstractmethod
    def id_to_token(self, index: int) -> Optional[str]:
        """The token with this id as the vocabulary writes it; None if there is none."""


def batch_threads() -> int:
    """Threads for one batch: the cores this process may use, or 1 where TOKENIZERS_PARALLELISM says false."""
    if os.environ.get("TOKENIZERS_PARALLELISM", "").lower() in ("0", "false", "off", "no"):
        return 1
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
