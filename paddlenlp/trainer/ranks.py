"""Where this process stands in the job, from the variables Paddle's launcher sets."""

from __future__ import annotations

import os


def _environment_int(name: str, default: int) -> int:
    value = os.environ.get(name, "")
    return int(value) if value.strip().lstrip("-").isdigit() else default


class ProcessRanks:
    """Ranks and world size as properties; one process when no launcher has set the environment."""

    @property
    def world_size(self) -> int:
        """Number of processes of the job (PADDLE_TRAINERS_NUM)."""
        return _environment_int("PADDLE_TRAINERS_NUM", 1)

    @property
    def process_index(self) -> int:
        """Rank of this process in the job (PADDLE_TRAINER_ID)."""
        return _environment_int("PADDLE_TRAINER_ID", 0)

    @property
    def local_process_index(self) -> int:
        """Rank of this process on its machine (PADDLE_RANK_IN_NODE)."""
        return _environment_int("PADDLE_RANK_IN_NODE", self.process_index)

    @property
    def local_world_size(self) -> int:
        """Number of processes of the job on this machine (PADDLE_LOCAL_SIZE)."""
        return _environment_int("PADDLE_LOCAL_SIZE", self.world_size)
