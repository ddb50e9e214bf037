"""Which checks are carried out, in which order, on one process or on every rank of a job."""

from __future__ import annotations

import socket
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Iterator, List, Optional

from paddlenlp.trainer.ranks import ProcessRanks
from paddlenlp.utils.cpu_tuning import apply_cpu_tuning, runs_on_cpu
from paddlenlp.utils.errors import UsageError

from . import devices, machine, software, storage
from .finding import FAIL, OK, WARN, Finding, carry_out

if TYPE_CHECKING:
    from paddlenlp.parallel.group import Group


OF_A_PROCESS = ("products",)
"""Checks in which the processes of a host may differ."""


@dataclass(frozen=True)
class Visit(ProcessRanks):
    """What to look at.

    Attributes:
        output_dir: where the run will write.
        input_dir: its data; None: not looked at.
        device: "cpu", "gpu" (the CPU where Paddle has no CUDA) or "gpu:N".
        trial_bytes: of the file that is written to output_dir.
        patience: seconds to wait for another rank.
    """

    output_dir: str = "."
    input_dir: Optional[str] = None
    device: str = "gpu"
    trial_bytes: int = 64 << 20
    patience: float = 60.0


def examine_machine(visit: Visit) -> Iterator[Finding]:
    """What one process can find out about the machine it runs on. Imports Paddle, after what needs none."""
    here = visit.local_world_size
    yield from carry_out(software.python)
    yield from carry_out(software.packages)
    yield from carry_out(machine.memory, here)
    yield from carry_out(machine.processors, here)
    yield from carry_out(machine.shared_memory)
    yield from carry_out(machine.open_files, visit.world_size)
    yield from carry_out(storage.output_folder, visit.output_dir, visit.trial_bytes)
    if visit.input_dir is not None:
        yield from carry_out(storage.input_data, visit.input_dir)
    tune(visit)
    found = carry_out(software.paddle)
    yield from found
    if found[0].state == FAIL:
        return
    yield from carry_out(devices.gpus, visit.device)
    yield from carry_out(choose_device, visit)
    yield from carry_out(devices.product)
    yield from carry_out(devices.fused_operations)


def tune(visit: Visit) -> None:
    """The settings of a run, so that what is timed here is what it would get."""
    warnings.filterwarnings("ignore", message="No ccache found")  # only compiling operators would want it
    if runs_on_cpu(visit.device):
        apply_cpu_tuning()


def choose_device(visit: Visit) -> List[Finding]:
    """Have Paddle compute where the run would."""
    import paddle

    on_cpu = visit.device == "cpu" or not paddle.is_compiled_with_cuda() or not paddle.device.cuda.device_count()
    paddle.set_device("cpu" if on_cpu else visit.device)
    return []


def examine_job(visit: Visit, own: List[Finding]) -> Iterator[Finding]:
    """What only the ranks together can find out, and what the others' `examine_machine` found. Every rank calls this
    after its own.

    Args:
        own: what it found here.
    """
    if visit.world_size == 1:
        return
    from paddlenlp.parallel.objects import everyones

    from . import job

    try:
        group = _meet(visit)
        names = everyones(socket.gethostname(), group)
        hosts = len(set(names))
        yield Finding("ranks", OK, f"{visit.world_size} have met, on {hosts} host{'s' * (hosts > 1)}")
        yield from _of_others(visit, own, names, group)
        for check in (job.clocks, job.sums):
            yield from carry_out(check, group, names)
    except UsageError as error:
        advice = "See that every host reaches the others' addresses and ports, and the log of the missing rank."
        yield Finding("ranks", FAIL, str(error), advice)


def _meet(visit: Visit) -> Group:
    from paddlenlp.parallel.mesh import Mesh
    from paddlenlp.parallel.topology import set_topology
    from paddlenlp.parallel.transport import transport

    transport().patience = visit.patience
    group = set_topology(Mesh(dp=visit.world_size), visit.process_index).world.group
    group.barrier()
    return group


def _of_others(visit: Visit, own: List[Finding], names: List[str], group: Group) -> Iterator[Finding]:
    """The warnings and failures of other ranks; what a host has in common is told by its first process."""
    own = own if visit.local_process_index == 0 else [found for found in own if found.check in OF_A_PROCESS]
    from paddlenlp.parallel.objects import everyones

    told = [list(found) for found in own if found.state in (WARN, FAIL)]
    for rank, theirs in enumerate(everyones(told, group)):
        for values in theirs if rank != visit.process_index else []:
            yield Finding(*values)._replace(place=f"rank {rank} on {names[rank]}")
