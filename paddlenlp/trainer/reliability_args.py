"""Arguments about what a run does when something goes wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from .fields import acts, in_group
from .options import BAD_STEP_POLICIES, SAVE_FAILURE_POLICIES


@in_group("reliability")
@dataclass
class ReliabilityArguments:
    """Bad numbers, failing storage, ranks that hang."""

    bad_step_policy: str = acts(
        "stop",
        "What to do about a step whose loss or gradients are not finite or whose loss jumps (loss_spike_bound): stop, "
        "skip its data, or rollback to the last checkpoint and pass its data over.",
        choices=BAD_STEP_POLICIES,
    )
    loss_spike_bound: Optional[float] = acts(
        None,
        "A loss above this many times the mean of the last 20 good steps makes a bad step; before there are 20, any "
        "finite loss is good. Default: always.",
        gt=1,
    )
    bad_step_limit: int = acts(
        10, "With bad_step_policy skip or rollback: end the run at this many bad steps in a row.", ge=1
    )
    save_failure_policy: str = acts(
        "stop",
        "What to do when a checkpoint or a file of results cannot be written: stop, or continue training and try again "
        "at the next save.",
        choices=SAVE_FAILURE_POLICIES,
    )
    read_retries: int = acts(
        3, "Times that a read from storage is tried again, after 0.1, 0.2, 0.4 ... seconds, before it counts.", ge=0
    )
    hang_timeout: float = acts(
        600.0,
        "Seconds without any progress of a rank after which the run ends, naming the rank and what it was doing. 0: "
        "wait for ever.",
        ge=0,
    )
