"""A harvest as a job: prepare, then a worker per rank, then the merge."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from spd_tools.errors import SpdToolsError
from spd_tools.launch.control import start_job
from spd_tools.launch.graph import Graph, Step
from spd_tools.launch.profiles import SlurmProfile
from spd_tools.launch.status import Job

if TYPE_CHECKING:
    from spd_tools.harvest import HarvestRequest


def harvest_steps(
    request: HarvestRequest, *, max_concurrent: int | None = None, prepare_here: bool = False
) -> tuple[Step, ...]:
    """The steps ``prepare``, ``workers`` (one task per rank of ``request.world_size``) and ``merge``.

    Args:
        request: what to harvest; workers started by hand with the same world size work on the same harvest.
        max_concurrent: most workers at a time.
        prepare_here: prepare on the machine that submits.
    """
    arguments = {"request": dataclasses.asdict(request)}
    n_gpus = 0 if request.device == "cpu" else 1
    return (
        Step(name="prepare", kind="harvest-prepare", arguments=arguments, here=prepare_here),
        Step(
            name="workers",
            kind="harvest-work",
            arguments=arguments,
            after=("prepare",),
            n_tasks=request.world_size,
            max_concurrent=max_concurrent,
            gpus=n_gpus,
        ),
        Step(name="merge", kind="harvest-merge", arguments=arguments, after=("workers",)),
    )


def start_harvest(
    request: HarvestRequest,
    *,
    slurm: SlurmProfile | None = None,
    max_concurrent: int | None = None,
    allow_dirty: bool = False,
) -> Job:
    """Start a harvest of ``request.world_size`` workers, which goes on when this process has left.

    It goes on from whatever earlier workers of the same request have saved. A request that is being worked on already
    is not started again: its job is returned. One that another job works on, a pipeline say, is refused.

    Args:
        request: what to harvest.
        slurm: the profile to submit with; None: processes of this machine.
        max_concurrent: most workers at a time; None: on this machine one per GPU, or all of them on CPUs.
        allow_dirty: let SLURM jobs run tracked changes that were not committed.

    Raises:
        SpdToolsError: as ``start_job`` does, for a request that cannot be spread, and for a run that is not there.
    """
    from spd_tools.decompositions.resolve import check_reference

    if request.device is not None and request.device.startswith("cuda:"):
        raise SpdToolsError(f"Every worker sees one GPU, as cuda; say --device cuda instead of {request.device}.")
    check_reference(request.run)  # not after hours in a queue
    here = slurm is not None and slurm.prepare == "here"
    return start_job(
        kind="harvest",
        subject=request.run,
        request=dataclasses.asdict(request),
        graph=Graph(steps=harvest_steps(request, max_concurrent=max_concurrent, prepare_here=here)),
        executor="local" if slurm is None else "slurm",
        profile=slurm,
        allow_dirty=allow_dirty,
    )
