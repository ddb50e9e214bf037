"""Arguments about knowing beforehand: the dry run, the plan, the micro batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from paddlenlp.parallel.mesh import least_processes

from .fields import acts, in_group
from .ranks import ProcessRanks


@in_group("planning")
@dataclass
class PlanningArguments(ProcessRanks):
    """What is found out before a run takes a device."""

    dry_run: bool = acts(
        False,
        "Do everything up to the first step on one process, without weights and without a GPU: what would stop the run "
        "is found here. Writes nothing but the index of the data.",
    )
    dry_run_processes: Optional[int] = acts(
        None,
        "Processes of the run that dry_run stands for. Default: the launcher's, else as few as the degrees need.",
        ge=1,
    )
    dry_run_step: bool = acts(
        False,
        "At the end of the dry run train a tiny model of the same kind for one step on this machine's CPU, with a "
        "process for each role that a rank can have in the layout.",
    )
    plan_gpu: Optional[str] = acts(
        None,
        "Device to plan for, an entry of paddlenlp/planning/hardware.json such as a100-80g, or cpu. Default: the one "
        "that the run has; a dry run where there is no GPU plans for none.",
    )
    auto_micro_batch: bool = acts(
        False,
        "Choose the largest per_device_train_batch_size that fits by the plan and the memory that is free. The global "
        "batch stays what per_device_train_batch_size and gradient_accumulation_steps say.",
    )

    @property
    def world_size(self) -> int:
        """Number of processes of the job; of a dry run outside one, of the job that it stands for."""
        launched = super().world_size
        if not self.dry_run or launched > 1:
            return launched
        return self.dry_run_processes or least_processes(self.degrees)  # type: ignore[attr-defined]
