"""A sweep as a job: what needs no GPU first, then a task per point; and how its points stand."""

from __future__ import annotations

from typing import Any

from spd_tools.errors import SpdToolsError
from spd_tools.launch.control import start_job
from spd_tools.launch.graph import Graph, Step
from spd_tools.launch.machine import n_cpus, visible_gpus
from spd_tools.launch.profiles import SlurmProfile
from spd_tools.launch.status import Job, job_status
from spd_tools.launch.training import gpus_of, plain_request, with_gpus
from spd_tools.launch.verdicts import Status
from spd_tools.store.records import Record
from spd_tools.training.ranks import check_gpus
from spd_tools.training.sweep import Sweep

KIND = "train-sweep"
_POINTS = "points"
_NOT_METRICS = ("run", "steps")


class SweepRow(Record):
    """A point as it stands."""

    point: int
    """From 0, in the order of the grid; the rank of its task."""
    name: str
    """Of its configuration."""
    varies: dict[str, Any]
    """Place of every field that varies -> its value."""
    status: Status
    why: str | None
    """One sentence: why it failed, or what it waits for."""
    done: int | None
    """Steps that are done; None: not known."""
    total: int | None
    run: str | None
    """Its folder, once it is finished."""
    metrics: dict[str, float]
    """The main metrics of its last evaluation; empty until it is finished."""


class SweepTable(Record):
    """A sweep as it stands."""

    id: str
    status: Status
    error: str | None
    rows: tuple[SweepRow, ...]


def start_sweep(
    sweep: Sweep,
    *,
    n_gpus: int = 1,
    slurm: SlurmProfile | None = None,
    max_concurrent: int | None = None,
    allow_dirty: bool = False,
) -> Job:
    """Start a sweep, which goes on when this process has left, and from whatever its points have saved earlier.

    Args:
        sweep: What to train.
        n_gpus: GPUs of one point.
        slurm: The profile to submit with; None: processes of this machine.
        max_concurrent: Most points at a time; None: on this machine as many as it has GPUs, or CPUs, for.
        allow_dirty: Let SLURM jobs run tracked changes that were not committed.

    Raises:
        SpdToolsError: as ``start_job`` does, and when there are too few GPUs.
    """
    device = sweep.request.device
    if slurm is None:
        max_concurrent = _at_once(device, n_gpus, max_concurrent)
    arguments = {"sweep": plain_request(sweep), "n_gpus": n_gpus}
    here = slurm is not None and slurm.prepare == "here"
    prepare = Step(name="prepare", kind="sweep-prepare", arguments=arguments, here=here)
    train = Step(
        name=_POINTS,
        kind="sweep-point",
        arguments=arguments,
        after=("prepare",),
        n_tasks=len(sweep.points),
        max_concurrent=max_concurrent,
        gpus=gpus_of(device, n_gpus),
    )
    return start_job(
        kind=KIND,
        subject=sweep.request.source,
        request=arguments,
        graph=Graph(steps=(prepare, train)),
        executor="local" if slurm is None else "slurm",
        profile=None if slurm is None else with_gpus(slurm, device, n_gpus),
        allow_dirty=allow_dirty,
    )


def _at_once(device: str | None, n_gpus: int, wanted: int | None) -> int | None:
    """Points of this machine at a time. GPUs are counted by the scheduler, CPUs are not."""
    if n_gpus > 1:
        check_gpus(device, n_gpus)
    if wanted is not None or (device != "cpu" and visible_gpus()):
        return wanted
    return max(1, n_cpus() // n_gpus)


def sweep_table(job_id: str) -> SweepTable:
    """The points of a sweep as they stand.

    Raises:
        SpdToolsError: when there is no such job, or it is no sweep.
    """
    job = job_status(job_id)
    if job.kind != KIND:
        raise SpdToolsError(f"{job_id} is no sweep of trainings; look at it with `spd-tools jobs show {job_id}`.")
    known = job.request["sweep"]["points"]
    rows = [
        SweepRow(
            point=task.rank,
            name=point["name"],
            varies=dict(point["varies"]),
            status=task.status,
            why=task.why,
            done=task.done,
            total=task.total,
            run=(task.result or {}).get("run"),
            metrics={name: value for name, value in (task.result or {}).items() if name not in _NOT_METRICS},
        )
        for point, task in zip(known, job.step(_POINTS).tasks, strict=True)
    ]
    return SweepTable(id=job.id, status=job.status, error=job.error, rows=tuple(rows))
