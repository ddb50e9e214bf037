"""What a layer may look at beside the hidden states."""

from __future__ import annotations

from typing import List, NamedTuple, Optional, Tuple

from paddle import Tensor

from paddlenlp.parallel.sequence import own_positions, own_share
from paddlenlp.parallel.topology import topology
from paddlenlp.utils.errors import UsageError

from .cache import KVCache, LayerCache
from .documents import Documents


class Batch(NamedTuple):
    """Shape, positions and masks of the micro batch that is being read, and how the layer at hand is to run.

    Where ranks share each row of tokens (sep or context parallelism) `size`, `seq` and `positions` are of what this
    rank holds, and `length`, `attention_mask` and `documents` of whole rows.

    Attributes:
        size, seq: hidden states are [size * seq, hidden], row by row of the batch.
        start: tokens of each row that are in the cache already; without `positions` the row stands at start .. start +
            seq - 1.
        length: the greatest position + 1.
        positions: int64 [size | 1, seq], or [size | 1, 2, seq] where each token has two, or None.
        attention_mask: [size, start + seq], true where a key may be seen, on top of the causal rule; or [size | 1,
            heads | 1, seq, start + seq] in place of it, for the heads of the whole layer; or None.
        cache: the layer's keys and values, while generating.
        recompute: the granularity at which the layer recomputes, or None.
        ahead: ids and labels, int64 [tokens] each, of the tokens one further on, where a layer wants them; or None.
        opening: while generating, how many tokens of each row were read first; None where all are read at once.
        documents: [size, start + seq], beyond whose bounds nothing looks at other tokens; None where a row is one.
    """

    size: int
    seq: int
    start: int
    length: int
    positions: Optional[Tensor] = None
    attention_mask: Optional[Tensor] = None
    cache: Optional[LayerCache] = None
    recompute: Optional[str] = None
    ahead: Optional[Tuple[Tensor, Tensor]] = None
    opening: Optional[int] = None
    documents: Optional[Documents] = None

    def first_of_document(self) -> Optional[Tensor]:
        """Boolean [size, seq]: whether a token is the first of its document; None where a row is one."""
        return None if self.documents is None else own_share(self.documents.begins()[:, self.start :])


def make_batch(
    input_ids: Tensor,
    position_ids: Optional[Tensor] = None,
    attention_mask: Optional[Tensor] = None,
    cache: Optional[KVCache] = None,
    document_ids: Optional[Tensor] = None,
) -> Batch:
    """The Batch of token ids [size, seq], read after what `cache` holds.

    Where ranks share each row, `input_ids` are what this rank holds (`own_share`), `position_ids`, `attention_mask`
    and `document_ids` (`Documents.numbers`) of whole rows.

    Raises:
        UsageError: ranks share each row, and there is a cache, or positions or a mask of another length; or the numbers
            of documents are not those of these tokens.
    """
    size, seq = input_ids.shape
    whole = seq * topology().sequence.size
    if whole > seq:
        _check_whole(whole, position_ids, attention_mask, cache)
    start = 0 if cache is None else cache.length
    length = start + whole if position_ids is None else int(position_ids.max()) + 1
    positions = None if position_ids is None else own_share(position_ids, position_ids.ndim - 1)
    if positions is None and whole > seq:
        positions = own_positions(whole).unsqueeze(0)
    opening = None if cache is None else cache.opening
    documents = None if document_ids is None else _documents(document_ids, [size, start + whole])
    return Batch(size, seq, start, length, positions, attention_mask, opening=opening, documents=documents)


def _documents(numbers: Tensor, shape: List[int]) -> Documents:
    if list(numbers.shape) != shape:
        raise UsageError(
            f"document_ids has shape {list(numbers.shape)}, but whole rows, with what a cache holds of them, are "
            f"{shape}: give the number of the document of each token"
        )
    return Documents(numbers)


def _check_whole(length: int, positions: Optional[Tensor], mask: Optional[Tensor], cache: Optional[KVCache]) -> None:
    """Refuse what does not go with rows of `length` tokens that ranks share."""
    mesh = topology()
    flag = "sep_parallel_degree" if mesh.sep.size > 1 else "context_parallel_degree"
    if cache is not None:
        raise UsageError(
            f"text is generated token by token, and {flag}={mesh.sequence.size} cuts each row of tokens over ranks: "
            f"generate with {flag}=1 (tensor_parallel_degree may stay)"
        )
    for name, found in (("position_ids", positions), ("attention_mask", mask)):
        if found is not None and found.shape[-1] != length:
            raise UsageError(
                f"{name} has shape {list(found.shape)}, but the rows that {flag}={mesh.sequence.size} ranks share have "
                f"{length} tokens: give {name} of whole rows on every rank"
            )
