"""Groups for what ranks settle beside the training, whatever device it runs on: signals, checkpoints, heartbeats."""

from __future__ import annotations

from .group import Group, SoloGroup
from .topology import topology


def control_group(name: str) -> Group:
    """A group of all ranks of the job that exchanges tensors in host memory over TCP. Every rank makes it.

    It shares nothing with the groups of the training, so that another thread may use it meanwhile, and it waits for no
    device.
    """
    world = topology().world
    if world.size == 1:
        return SoloGroup(name)
    from .socket_group import SocketGroup

    return SocketGroup(name, world.ranks, world.rank)
