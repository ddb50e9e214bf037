"""Keys and values of the tokens a model has read, kept while it generates."""

from __future__ import annotations

from typing import List, Optional, Tuple

import paddle
from paddle import Tensor


class LayerCache:
    """Keys and values [b, t, kv heads, d] that one attention layer has seen."""

    def __init__(self) -> None:
        self.keys: Optional[Tensor] = None
        self.values: Optional[Tensor] = None

    def extend(self, keys: Tensor, values: Tensor) -> Tuple[Tensor, Tensor]:
        """Add the keys and values of new tokens; returns those of all tokens."""
        if self.keys is not None and self.values is not None:
            keys, values = paddle.concat([self.keys, keys], 1), paddle.concat([self.values, values], 1)
        self.keys, self.values = keys, values
        return keys, values


class KVCache:
    """One LayerCache for each decoder layer. `length` tokens have been read."""

    def __init__(self, num_layers: int) -> None:
        self.layers: List[LayerCache] = [LayerCache() for _ in range(num_layers)]

    @property
    def length(self) -> int:
        keys = self.layers[0].keys
        return 0 if keys is None else keys.shape[1]
