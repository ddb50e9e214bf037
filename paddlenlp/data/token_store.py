"""What every dataset file format offers once it is open: one flat array of tokens, cut into sequences and documents."""

from __future__ import annotations

from typing import Dict, Optional

import numpy as np

from paddlenlp.utils.errors import UsageError

DTYPES: Dict[int, np.dtype] = {
    1: np.dtype("u1"),
    2: np.dtype("i1"),
    3: np.dtype("<i2"),
    4: np.dtype("<i4"),
    5: np.dtype("<i8"),
    6: np.dtype("<f8"),
    7: np.dtype("<f4"),
    8: np.dtype("<u2"),
    9: np.dtype("<u4"),
    10: np.dtype("<u8"),
}
"""dtype code of the .idx header -> little-endian NumPy dtype."""

REMAKE = (
    "Most likely an interrupted copy or a file of another dataset: copy both files again, "
    "or make them again with llm/tools/create_pretraining_data.py."
)
"""What to do about a pair of files that do not fit."""


def dtype_code(dtype: np.typing.DTypeLike) -> int:
    """Code of `dtype` in the .idx header.

    Raises:
        UsageError: the format has no code for it.
    """
    wanted = np.dtype(dtype).newbyteorder("<")
    for code, known in DTYPES.items():
        if known == wanted:
            return code
    raise UsageError(
        f"Tokens of type {np.dtype(dtype)} cannot be stored. Use one of {', '.join(map(str, DTYPES.values()))}."
    )


def best_dtype(vocab_size: int) -> np.dtype:
    """uint16 for a vocabulary of fewer than 65535 tokens, else int32 (the rule of the reference's data script)."""
    return np.dtype("<u2") if vocab_size < 65535 else np.dtype("<i4")


class TokenStore:
    """Token sequences of one dataset, memory-mapped.

    Attributes:
        path: the prefix, as given.
        tokens: all tokens, `[T]`, in the stored dtype.
        sizes: tokens in each sequence, int32 `[N]`.
        pointers: BYTE offset of each sequence in the token data, int64 `[N]`.
        doc_idx: index of the first sequence of each document, then N: int64 `[documents + 1]`.
    """

    def __init__(
        self, path: str, tokens: np.ndarray, sizes: np.ndarray, pointers: np.ndarray, doc_idx: np.ndarray
    ) -> None:
        self.path = path
        self.tokens = tokens
        self.sizes = sizes
        self.pointers = pointers
        self.doc_idx = doc_idx

    @property
    def dtype(self) -> np.dtype:
        """Type of the stored tokens."""
        return self.tokens.dtype

    @property
    def num_documents(self) -> int:
        """Documents; a document is one or more sequences."""
        return len(self.doc_idx) - 1

    def __len__(self) -> int:
        """Sequences."""
        return len(self.sizes)

    def get(self, index: int, offset: int = 0, length: Optional[int] = None) -> np.ndarray:
        """`length` tokens (default: the rest) of sequence `index` from `offset` on: a read-only view.

        Raises:
            IndexError: the sequence or the range does not exist.
        """
        size = int(self.sizes[index])
        length = size - offset if length is None else length
        if offset < 0 or length < 0 or offset + length > size:
            raise IndexError(f"{self.path}: sequence {index} has {size} tokens; asked for {length} from {offset} on")
        start = int(self.pointers[index]) // self.dtype.itemsize + offset
        return self.tokens[start : start + length]

    def __getitem__(self, index: int) -> np.ndarray:
        return self.get(index)
