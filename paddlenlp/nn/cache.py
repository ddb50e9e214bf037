"""Keys and values of the tokens a model has read, kept while it generates."""

from __future__ import annotations

from typing import Dict, List, Optional, Tuple

import paddle
from paddle import Tensor


class LayerCache:
    """Keys and values [b, t, kv heads, d] that one attention layer has seen, and the last token of whatever else it
    needs."""

    def __init__(self) -> None:
        self.keys: Optional[Tensor] = None
        self.values: Optional[Tensor] = None
        self._last: Dict[str, Tensor] = {}

    def extend(self, keys: Tensor, values: Tensor) -> Tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens; returns those of all tokens."""
        if self.keys is not None and self.values is not None:
            keys, values = paddle.concat([self.keys, keys], 1), paddle.concat([self.values, values], 1)
        self.keys, self.values = keys, values
        return keys, values

    def replace_last(self, name: str, x: Tensor) -> Optional[Tensor]:
        """Keep the last of new tokens x [b, s, h] under `name`; returns [b, 1, h], the last before them, or None."""
        before = self._last.get(name)
        self._last[name] = x[:, -1:]
        return before


class KVCache:
    """One LayerCache for each decoder layer. `length` tokens have been read; `ids` [b, t] are those, `opening` of them
    at first."""

    def __init__(self, num_layers: int) -> None:
        self.layers: List[LayerCache] = [LayerCache() for _ in range(num_layers)]
        self.ids: Optional[Tensor] = None
        self.opening: Optional[int] = None

    def extend(self, ids: Tensor) -> Tensor:
        """Note the ids [b, s] of new tokens; returns those of all tokens."""
        self.opening = ids.shape[1] if self.opening is None else self.opening
        self.ids = ids if self.ids is None else paddle.concat([self.ids, ids], 1)
        return self.ids

    @property
    def length(self) -> int:
        keys = self.layers[0].keys
        return 0 if keys is None else keys.shape[1]
