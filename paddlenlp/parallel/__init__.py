"""Ranks, and how tensors are cut over them. This room knows no model."""

from __future__ import annotations

from paddlenlp.utils.lazy import lazy_module

# Not lazy: the submodule of the same name would stand in the function's place.
from .topology import topology as topology

__getattr__, __dir__, __all__ = lazy_module(
    __name__,
    {
        "Axis": "topology",
        "Embedding": "layers",
        "Fused": "layout",
        "Layout": "layout",
        "Linear": "layers",
        "Mesh": "mesh",
        "REPLICATED": "layout",
        "Topology": "topology",
        "init_topology": "topology",
        "set_topology": "topology",
    },
)
__all__.append("topology")
