"""The nearest known word to a mistyped one."""

from __future__ import annotations

from difflib import SequenceMatcher
from typing import Iterable, List


def edit_distance(first: str, second: str, limit: int) -> int:
    """Insertions, deletions, replacements and swaps of neighbours between two words, or limit + 1 if more."""
    if abs(len(first) - len(second)) > limit:
        return limit + 1
    before: List[int] = []
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        older, before, row = before, row, [i]
        for j, b in enumerate(second, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and a == second[j - 2] and b == first[i - 2]:
                cost = min(cost, older[j - 2] + 1)
            row.append(cost)
        if min(row) > limit and min(before) > limit:
            return limit + 1
    return row[-1]


def nearest(word: str, known: Iterable[str]) -> List[str]:
    """Up to three known words a user may have meant by `word`, the likeliest first.

    Words a few typing errors away come first, then words that begin with `word`.
    """
    key = word.lower().replace("-", "_")
    limit = max(1, len(key) // 4)
    ranked = []
    for name in known:
        distance = edit_distance(key, name.lower(), limit)
        if distance <= limit:
            ranked.append((distance, -SequenceMatcher(None, key, name.lower()).ratio(), name))
        elif len(key) >= 2 and name.lower().startswith(key):
            ranked.append((limit + 1, 0.0, name))
    ranked.sort()
    return [name for _, _, name in ranked[:3]]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """'; did you mean "x"?' for the end of an error message, or "" when nothing is near."""
    names = nearest(word, known)
    if not names:
        return ""
    best = names if key_is_prefix(word, names) else names[:1]
    return "; did you mean " + " or ".join(f'"{name}"' for name in best) + "?"


def key_is_prefix(word: str, names: List[str]) -> bool:
    """Whether `word` is the beginning of all `names`."""
    return all(name.startswith(word) for name in names)
