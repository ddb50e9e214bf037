"""Whether a model, a tokenizer and data go with bounds between the documents of a sample: checked before anything takes
long."""

from __future__ import annotations

from typing import Any, Iterator, Optional, Sequence

from paddlenlp.data.bounds import DocumentBounds, check_document_ends
from paddlenlp.nn.frequencies import SCALINGS
from paddlenlp.utils.errors import UsageError


def document_bounds(data_args: Any, config: Any, tokenizer: Any, prefixes: Sequence[str]) -> Optional[DocumentBounds]:
    """What `reset_position_ids` and `reset_attention_mask` ask for; None if nothing.

    Args:
        data_args: DataArguments.
        config: of the model.
        tokenizer: whose end-of-text token closes documents.
        prefixes: of the datasets, whose first documents are looked at.

    Raises:
        UsageError: the model, the tokenizer or a dataset does not go with it; says why and what to set.
    """
    positions, attention = data_args.reset_position_ids, data_args.reset_attention_mask
    if not (positions or attention):
        return None
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"reset_position_ids and reset_attention_mask find the ends of documents by the eos_token, and the "
            f"tokenizer {tokenizer.name_or_path} has none: name one in its tokenizer_config.json, or leave them out"
        )
    found = [*_contexts(config), *(_positions(config, data_args.max_seq_length) if positions else ())]
    if found:
        raise UsageError(f"A model of the family {config.model_type} does not go with what is asked: {found[0]}")
    check_document_ends(prefixes, data_args.data_impl, tokenizer.eos_token_id)
    return DocumentBounds(tokenizer.eos_token_id, positions, attention)


def _contexts(config: Any) -> Iterator[str]:
    if config.get("context_end_token_id") is not None:
        yield (
            "it reads each sample as one context and the text after it, with positions and a mask of its own. Set "
            "reset_position_ids and reset_attention_mask to false"
        )


def _positions(config: Any, length: int) -> Iterator[str]:
    if not config.get("counts_positions", True):
        yield (
            "it tells tokens apart by how far they are from each other (linear biases), so that there are no positions "
            "for reset_position_ids to reset. Set it to false; reset_attention_mask alone does all there is to do"
        )
    scaling = config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    name = SCALINGS[kind].longer_than if kind in SCALINGS else None
    trained = name and scaling.get(name, config.get(name))
    if trained and length > trained:
        yield (
            f"rope_scaling of type {kind} turns tokens by the length of the sequence they are in when that is above "
            f"{trained}, and max_seq_length is {length}: the documents of a sample are of different lengths. Set "
            f"reset_position_ids to false, or max_seq_length to at most {trained}"
        )
