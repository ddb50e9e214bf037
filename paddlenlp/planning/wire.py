"""What travels between devices, and how long it takes."""

from __future__ import annotations

from math import log2
from typing import Dict, NamedTuple

from .hardware import Hardware
from .layout import Layout

ACHIEVED = 0.8
"""Of a link's speed: NCCL's collectives between 8 A100 come to about 235 of 300 GB/s, to 21 of 25 over the network."""

HOP = 10e-6
"""Seconds of a step of a collective; there are log2 of the ranks, as in trees (NCCL 2.23 and later: in all kinds)."""


TAX = 0.15
"""Of the time an exchange takes behind computing that the computing is slowed down by it: NCCL's kernels occupy 16 or
more of 108 to 132 processors, and share the memory."""


class Line(NamedTuple):
    """Ranks along an axis: how many, and how many ranks apart neighbours are."""

    size: int
    stride: int


def lines(layout: Layout) -> Dict[str, Line]:
    """The axes of `Topology` over which something travels: tp, sequence, pp, sharding, dp, ep, expert_sharding,
    expert_replica, replica."""
    mesh = layout.mesh
    inner = mesh.tp * mesh.sequence
    pp_stride, sharding_stride = inner * mesh.sharding, inner
    if mesh.order == "sharding_first":
        pp_stride, sharding_stride = inner, inner * mesh.pp
    dp_stride = inner * mesh.sharding * mesh.pp
    axis = Line(mesh.sharding, sharding_stride) if mesh.sharding > 1 else Line(mesh.dp, dp_stride)
    far = Line(axis.size // mesh.ep, axis.stride * mesh.ep)
    replica = Line(mesh.dp * mesh.sequence, mesh.tp if mesh.dp == 1 else dp_stride // mesh.sequence)
    sharded = mesh.sharding > 1
    return {
        "tp": Line(mesh.tp, 1),
        "sequence": Line(mesh.sequence, mesh.tp),
        "pp": Line(mesh.pp, pp_stride),
        "sharding": Line(mesh.sharding, sharding_stride),
        "replica": replica,
        "ep": Line(mesh.ep, axis.stride),
        "expert_sharding": far if sharded else Line(1, 1),
        "expert_replica": replica if sharded else Line(far.size * mesh.sequence, far.stride),
    }


def speed(hw: Hardware, line: Line) -> float:
    """Bytes a second that each rank of a line sends.

    Between nodes, the ranks of the line that share a node send over the network adapters of all of them at a time.
    """
    inside = max(1, hw.devices_per_node // line.stride)
    network = min(inside, line.size) * hw.network_gb_s
    found = hw.link_gb_s if line.size <= inside else min(hw.link_gb_s, network)
    return found * 1e9 * ACHIEVED


def collective(hw: Hardware, line: Line, whole: float, passes: int = 1) -> float:
    """Seconds of an all-gather or reduce-scatter of `whole` bytes of all ranks, of an all-to-all of so many of each
    rank, or, with 2 passes, of an all-reduce. Each rank sends (size - 1) / size of it in a pass."""
    if line.size == 1:
        return 0.0
    return passes * (sent(line, whole) / speed(hw, line) + HOP * log2(line.size))


def sent(line: Line, whole: float) -> float:
    """Bytes that a rank sends in one pass of a collective of `whole` bytes."""
    return whole * (line.size - 1) / line.size


def neighbour(hw: Hardware, line: Line, count: float) -> float:
    """Seconds to send `count` bytes to the next rank of a line."""
    far = line.stride >= hw.devices_per_node or line.size * line.stride > hw.devices_per_node
    return HOP + count / ((hw.network_gb_s if far else hw.link_gb_s) * 1e9 * ACHIEVED)


def shown(travel: float, behind: float) -> float:
    """What an exchange of `travel` seconds adds to the `behind` seconds of computing at the same time."""
    return max(0.0, travel - behind) + TAX * min(travel, behind)
