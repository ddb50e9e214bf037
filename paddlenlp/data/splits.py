"""How a dataset's sequences are shared out to training, validation and test: `split` such as "949,50,1"."""

from __future__ import annotations

import os
from typing import List, Sequence

from paddlenlp.utils.errors import UsageError

SPLIT_NAMES = ("train", "valid", "test")
_PRINTED_NAMES = ("train", "validation", "test")


def parse_split(splits_string: str) -> List[float]:
    """Fractions of train, valid and test: floats separated by "," or "/", padded with zeros to three, summing to 1.

    Raises:
        UsageError: not numbers, more than three, negative, or all zero.
    """
    separator = "," if "," in splits_string else "/"
    try:
        parts = [float(part) for part in splits_string.split(separator)]
    except ValueError:
        raise UsageError(f"split is {splits_string!r}. Expected up to three numbers such as 949,50,1.") from None
    if len(parts) > 3 or not all(0 <= part < float("inf") for part in parts):
        raise UsageError(f"split is {splits_string!r}. Expected up to three numbers >= 0 such as 949,50,1.")
    total = plain_sum(parts)
    if total <= 0:
        raise UsageError(f"split is {splits_string!r}: its sum is 0. Expected shares such as 949,50,1.")
    return [part / total for part in parts] + [0.0] * (3 - len(parts))


def plain_sum(values: Sequence[float]) -> float:
    """The sum, added one by one: `sum` rounds differently from Python 3.12 on, and sample order depends on it."""
    total = 0.0
    for value in values:
        total += value
    return total


def split_bounds(splits_string: str, size: int) -> List[int]:
    """Four rising boundaries 0 .. `size`: split i is the sequences `[bounds[i], bounds[i + 1])`.

    The reference's arithmetic: rounded shares are added up (halves to even), then the surplus over `size` is taken off
    every boundary but the first. Where the reference would go below 0 (and read the last sequence as the first of the
    next split) the boundary stays 0.
    """
    bounds = [0]
    for share in parse_split(splits_string):
        bounds.append(bounds[-1] + int(round(share * float(size))))
    surplus = bounds[-1] - size
    return [0] + [max(0, bound - surplus) for bound in bounds[1:]]


def check_data_split(splits_string: str, do_train: bool, do_eval: bool, do_predict: bool) -> None:
    """Raise UsageError when a split that is to be used has a share of 0."""
    shares = parse_split(splits_string)
    if any(used and share == 0 for used, share in zip((do_train, do_eval, do_predict), shares)):
        raise UsageError(
            "If do_train/do_eval/do_predict is True, the corresponding dataset split should not be 0! "
            f"split is {splits_string!r} (train, valid, test)."
        )


def empty_split(name: str, prefix: str, splits_string: str, sequences: int, needed: int) -> UsageError:
    """The error for a split that got no sequences of `prefix` although `needed` samples are wanted from it."""
    flag = {"train": "do_train", "valid": "do_eval", "test": "do_predict"}[name]
    return UsageError(
        f"0 documents in split {name!r} (split {splits_string} of {sequences} documents of {prefix}): need at least 1, "
        f"for {needed} samples. Raise that part of --split, add documents, or set --{flag} false."
    )


def is_first_rank() -> bool:
    """Whether this process prints what one process should print."""
    return os.environ.get("PADDLE_TRAINER_ID", "0") == "0"


def print_first_rank(text: str) -> None:
    """Print `text` to standard output on the first rank."""
    if is_first_rank():
        print(text, flush=True)


def print_split(bounds: List[int]) -> None:
    """The reference's report of a split; "documents" are sequences."""
    print_first_rank(" > dataset split:")
    for name, low, high in zip(_PRINTED_NAMES, bounds, bounds[1:]):
        print_first_rank(f"    {name}:")
        print_first_rank(f"     document indices in [{low}, {high}) total of {high - low} documents")


def print_target_sizes(num_samples: Sequence[int]) -> None:
    """The reference's report of how many samples each split in use must give."""
    print_first_rank(" > datasets target sizes (minimum size):")
    for name, count in zip(("train:      ", "validation: ", "test:       "), num_samples):
        if count > 0:
            print_first_rank(f"    {name}{count}")
