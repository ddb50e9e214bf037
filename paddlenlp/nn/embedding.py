"""The layers of `paddlenlp.parallel` under the name by which families import them."""

from __future__ import annotations

from paddlenlp.parallel.layers import Embedding, Linear

__all__ = ["Embedding", "Linear"]
